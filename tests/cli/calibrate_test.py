"""quantsparse-calibrate: wrong usage, bad inputs, Ctrl-C, and a model that then generates."""
from __future__ import annotations

import signal
import subprocess
import time
import unittest

from support import CALIBRATE, MODEL, PROMPT, SMALL, CliTest, copy_model

FAST = ["--preset", "fast", "--samples", "1"]


class Calibrate(CliTest):
    def refused(self, code: int, words: list[str], *arguments) -> None:
        with self.subTest(arguments=arguments):
            self.assert_refused(self.run_tool(CALIBRATE, *arguments), code, *words)

    def test_wrong_usage(self) -> None:
        self.refused(2, [], "--output", "m.safetensors")
        self.refused(2, [], "--model", MODEL)
        self.refused(2, ["5"], "--model", MODEL, "--output", "m.safetensors", "--weights", "5")
        for bits in ("ffn_2", "ffn_2=", "ffn_2=eight", "ffn_2=8/", "ffn_2=5/8", "ffn=8/8"):
            self.refused(2, ["5-bit" if "5" in bits else bits.split("=")[0]], "--model", MODEL,
                         "--output", "m.safetensors", "--group-bits", bits)

    def test_bad_inputs(self) -> None:
        self.refused(1, ["nowhere"], "--model", "nowhere", "--output", "m.safetensors", *FAST)
        self.refused(1, ["missing"], "--model", MODEL, "--output", "missing/m.safetensors", *FAST)
        path = copy_model(self.folder)
        path.write_bytes(path.read_bytes()[:-100])
        self.refused(1, [path.name], "--model", "input-model", "--output", "m.safetensors", *FAST)

    def test_ctrl_c_leaves_no_model(self) -> None:
        # So many samples that it is still at work whatever the machine; interrupted at its first word.
        process = subprocess.Popen([CALIBRATE, "--model", MODEL, "--output", "m.safetensors",
                                    "--preset", "fast", "--samples", "64"],
                                   cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        first = process.stdout.read(1)
        time.sleep(0.5)
        self.assertIsNone(process.poll(), "it ended before it could be interrupted")
        process.send_signal(signal.SIGINT)
        output = first + process.communicate(timeout=60)[0]
        self.assertEqual(process.returncode, 1, output)
        self.assertFalse((self.folder / "m.safetensors").exists())

    def test_the_model_it_writes_generates(self) -> None:
        result = self.run_tool(CALIBRATE, "--model", MODEL, "--output", "input-w4a8.safetensors",
                               "--group-bits", "ffn_2=8/8", *FAST, timeout=500)
        self.assert_done(result)
        self.assert_done(self.video("-m", "input-w4a8.safetensors", "-p", PROMPT, *SMALL,
                                    "-o", "a.gif"))
        self.assertTrue((self.folder / "a.gif").exists())


if __name__ == "__main__":
    unittest.main()
