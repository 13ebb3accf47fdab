"""quantsparse-calibrate: wrong usage, bad inputs, Ctrl-C, and a model that then generates."""
from __future__ import annotations

import json
import math
import random
import signal
import struct
import subprocess
import time
import unittest

from support import (CALIBRATE, COMPARE, MODEL, PROMPT, SMALL, CliTest, copy_model,
                     read_safetensors, write_lora)

FAST = ["--preset", "fast", "--samples", "1"]


def random_lora(rank: int) -> dict[str, tuple[list[int], list[float]]]:
    """Of all linears of the bundled model's blocks, strong enough to be seen."""
    generator = random.Random(0)
    tensors = {}
    def add(name: str, width: int, out: int) -> None:
        for part, shape, size in (("A", [rank, width], 1 / math.sqrt(width)),
                                  ("B", [out, rank], 0.5 / math.sqrt(rank))):
            tensors[f"transformer.{name}.lora_{part}.weight"] = (
                shape, [generator.gauss(0, size) for _ in range(shape[0] * shape[1])])
    for block in range(6):
        for attention in ("attn1", "attn2"):
            for linear in ("to_q", "to_k", "to_v", "to_out.0"):
                add(f"blocks.{block}.{attention}.{linear}", 192, 192)
        add(f"blocks.{block}.ffn.net.0.proj", 192, 512)
        add(f"blocks.{block}.ffn.net.2", 512, 192)
    return tensors


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
        self.check_lora_on("input-w4a8.safetensors")

    def check_lora_on(self, quantised: str) -> None:
        """A LoRA does to the quantised model about what it does to the original."""
        write_lora(self.folder / "input-lora.safetensors", random_lora(rank=4))
        def latents(model, *more) -> list[float]:
            self.assert_done(self.video("-m", model, "-p", PROMPT, *SMALL, "-o", "a.y4m",
                                        "--save-latents", "a.npy", *more))
            data = (self.folder / "a.npy").read_bytes()
            return list(struct.unpack(f"<{(len(data) - 128) // 4}f", data[128:]))
        def distance(a: list[float], b: list[float]) -> float:
            return math.dist(a, b) / math.hypot(*b)
        lora = ("--lora", "input-lora.safetensors")
        plain, changed = latents(MODEL), latents(MODEL, *lora)
        effect = distance(changed, plain)
        quantised_plain, quantised_changed = latents(quantised), latents(quantised, *lora)
        by_quantising = distance(quantised_plain, plain)
        print(f"LoRA changes the latents by {effect:.3f}, quantising by {by_quantising:.3f}, "
              f"with the LoRA by {distance(quantised_changed, changed):.3f}")
        self.assertGreater(effect, 3 * by_quantising, "the LoRA is too weak for this test")
        self.assertLess(distance(quantised_changed, changed), 3 * by_quantising)

    def test_a_lora_becomes_part_of_the_weights(self) -> None:
        write_lora(self.folder / "input-lora.safetensors", random_lora(rank=4))
        size = (self.folder / "input-lora.safetensors").stat().st_size
        # Nothing is quantised: what the file holds is the sum, in 16 bits.
        result = self.run_tool(CALIBRATE, "--model", MODEL, "--output", "input-merged.safetensors",
                               "--weights", "16", "--lora", "input-lora.safetensors:0.5")
        self.assert_done(result)
        header, _ = read_safetensors(self.folder / "input-merged.safetensors")
        record = json.loads(header["__metadata__"]["quantization"])
        self.assertEqual(record["adapters"], [{"file": "input-lora.safetensors", "bytes": size,
                                               "strength": 0.5}])
        def clip(name: str, *arguments) -> None:
            self.assert_done(self.video("-p", PROMPT, *SMALL, "-o", name, *arguments))
        clip("merged/", "-m", "input-merged.safetensors")
        clip("added/", "-m", MODEL, "--lora", "input-lora.safetensors:0.5")
        result = self.run_tool(COMPARE, "merged", "added", "--min-psnr", "40")
        self.assertEqual(result.returncode, 0, result.stdout)


if __name__ == "__main__":
    unittest.main()
