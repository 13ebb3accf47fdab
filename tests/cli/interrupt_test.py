"""Ctrl-C: the run ends soon, with one line, exit 1 and no file."""
from __future__ import annotations

import os
import select
import signal
import subprocess
import time
import unittest

from support import MODEL, PROMPT, SMALL, VIDEO, CliTest

PATIENCE = 30  # seconds: a submission is bounded to about 0.1 s, sanitizers and busy machines are slow


class Interrupt(CliTest):
    def start(self, *arguments) -> subprocess.Popen:
        process = subprocess.Popen([VIDEO, "-m", MODEL, "-p", PROMPT, *arguments], cwd=self.folder,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def wait_for(self, process: subprocess.Popen, word: bytes) -> None:
        for line in process.stderr:
            if word in line:
                return
        self.fail(f"the run ended before it said {word!r}")

    def assert_stopped(self, process: subprocess.Popen) -> None:
        _, errors = process.communicate(timeout=PATIENCE)
        lines = [x for x in errors.decode().splitlines() if x.startswith("quantsparse-video:")]
        self.assertEqual(process.returncode, 1, errors)
        self.assertEqual(len(lines), 1, errors)
        self.assertIn("stopped", lines[0])
        self.assert_no_output()

    def test_while_generating(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            process = self.start("--steps", "1000", "-o", "a.mp4", "-o", "frames/",
                                 "--save-latents", "l.npy", "--progress", "json")
            self.wait_for(process, b'"denoise"')
            process.send_signal(number)
            self.assert_stopped(process)

    def test_at_once(self) -> None:
        process = self.start("--steps", "1000", "-o", "a.mp4", "--progress", "json")
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        self.assert_stopped(process)

    def test_while_writing(self) -> None:
        """A pipe that nobody reads holds the writer; the gif before it is not kept either."""
        os.mkfifo(self.folder / "input-pipe.y4m")
        pipe = os.open(self.folder / "input-pipe.y4m", os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, pipe)
        size = ["--size", "128x128", "--frames", "9", "--steps", "1", "--guidance-scale", "1"]
        process = self.start(*size, "-o", "a.gif", "-o", "input-pipe.y4m", "--progress", "none")
        readable, _, _ = select.select([pipe], [], [], 300)
        self.assertTrue(readable, "writing never began")
        time.sleep(1)  # 442 KB don't fit into the pipe: it waits
        self.assertIsNone(process.poll())
        process.send_signal(signal.SIGINT)
        self.assert_stopped(process)

    def test_a_reader_that_leaves(self) -> None:
        process = self.start(*SMALL, "-o", "-", "--progress", "none")
        process.stdout.close()
        errors = process.stderr.read().decode()
        self.assertEqual(process.wait(timeout=PATIENCE), 1)
        self.assertIn("pipe", errors)
        self.assert_no_output()


if __name__ == "__main__":
    unittest.main()
