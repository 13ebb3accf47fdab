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

    def rows(self, name: str) -> list[dict[str, str]]:
        with open(self.work / name) as f:
            return list(csv.DictReader(f))

    def test_a_killed_run_goes_on_and_exports(self):
        self.kill_at(self.work / "vae.pt")
        self.kill_at(self.work / "dit.pt")
        steps_before = len((self.work / "dit.csv").read_text().splitlines())
        self.kill_at(self.work / "distill.pt")
        done = subprocess.run(self.command, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

        model = self.work / "shapes-tiny"
        for file in ("model_index.json", "transformer/diffusion_pytorch_model.safetensors",
                     "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors",
                     "tokenizer/spiece.model", "lora-4-steps.safetensors"):
            self.assertTrue((model / file).is_file(), file)
        self.assertIn("transformer", json.loads((model / "model_index.json").read_text()))
        self.assertLess(sum(f.stat().st_size for f in model.rglob("*")), 20 << 20)
        rows, few = self.rows("dit.csv"), self.rows("distill.csv")
        self.assertGreater(len(rows), steps_before - 1)
        self.assertEqual(int(rows[-1]["step"]), 8)
        self.assertEqual(int(few[-1]["step"]), 6)
        self.assertTrue(all(float(r["loss"]) > 0 for r in (*rows, *few)))
        self.assertEqual({"trajectories", "rollouts"}, {r["kind"] for r in few})

        again = subprocess.run(self.command, capture_output=True, text=True)  # nothing is left to do
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertEqual((self.rows("dit.csv"), self.rows("distill.csv")), (rows, few))


if __name__ == "__main__":
    unittest.main()
