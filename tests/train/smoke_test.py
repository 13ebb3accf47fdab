"""run.py --smoke: every stage for a few steps, killed on the way and gone on with."""
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from support import TRAIN


class Smoke(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.work = Path(folder.name) / "smoke"
        self.command = [sys.executable, "-B", str(TRAIN / "run.py"), "--smoke", "--workdir", folder.name]

    def kill_at(self, file: Path) -> None:
        """Starts the run and kills it and its children as soon as `file` exists."""
        run = subprocess.Popen(self.command, start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            while run.poll() is None and not file.exists():
                time.sleep(0.02)
            self.assertIsNone(run.poll(), f"the run ended before '{file.name}' was written")
        finally:
            try:
                os.killpg(run.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            run.wait()

    def test_a_killed_run_goes_on_and_exports(self):
        self.kill_at(self.work / "vae.pt")
        self.kill_at(self.work / "dit.pt")
        steps_before = len((self.work / "dit.csv").read_text().splitlines())
        done = subprocess.run(self.command, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

        model = self.work / "shapes-tiny"
        for file in ("model_index.json", "transformer/diffusion_pytorch_model.safetensors",
                     "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors",
                     "tokenizer/spiece.model"):
            self.assertTrue((model / file).is_file(), file)
        self.assertIn("transformer", json.loads((model / "model_index.json").read_text()))
        self.assertLess(sum(f.stat().st_size for f in model.rglob("*")), 20 << 20)
        with open(self.work / "dit.csv") as f:
            rows = list(csv.DictReader(f))
        self.assertGreater(len(rows), steps_before - 1)
        self.assertEqual(int(rows[-1]["step"]), 8)
        self.assertTrue(all(float(r["loss"]) > 0 for r in rows))

        again = subprocess.run(self.command, capture_output=True, text=True)  # nothing is left to do
        self.assertEqual(again.returncode, 0, again.stderr)
        with open(self.work / "dit.csv") as f:
            self.assertEqual(len(list(csv.DictReader(f))), len(rows))


if __name__ == "__main__":
    unittest.main()
