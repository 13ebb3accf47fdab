"""sharpen.py for two steps, gone on with, on a few clips: the exported folder is the source with sharper logits."""
import csv
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from support import ROOT, TRAIN

import stfile  # noqa: E402  (on the path by support)

MODEL = ROOT / "samples/models/shapes-tiny"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
NORMS = "blocks.0.attn1.norm_q.weight", "blocks.0.attn1.norm_k.weight", "blocks.0.attn2.norm_q.weight"


class Sharpen(unittest.TestCase):
    def test_logits_are_multiplied_and_the_rest_is_trained(self):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "sharp"
            command = [sys.executable, "-B", TRAIN / "sharpen.py", MODEL, "--out", out, "--clips", "8", "--every", "1",
                       "--prompts", "2", "--ceiling", "99"]
            for steps in (1, 2):
                run = subprocess.run([*map(str, command), "--steps", str(steps)], capture_output=True, text=True)
                self.assertEqual(run.returncode, 0, run.stderr)
            with open(Path(folder) / "sharp.train/sharpen.csv") as f:
                rows = list(csv.DictReader(f))
            self.assertEqual([row["step"] for row in rows], ["1", "2"])
            self.assertLess(float(rows[0]["keys"]), 0.1)  # of the bundled model it is 0.21
            before, after = stfile.read(MODEL / WEIGHTS), stfile.read(out / WEIGHTS)
            self.assertEqual(set(before), set(after))
            query, key, cross = NORMS
            self.assertLess(float((after[query].float() - 5 * before[query].float()).abs().max()), 0.01)
            self.assertEqual(float((after[key].float() - before[key].float()).abs().max()), 0)
            self.assertLess(float((after[cross].float() - before[cross].float()).abs().max()), 0.1)


if __name__ == "__main__":
    unittest.main()
