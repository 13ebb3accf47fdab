"""The few-step LoRA: what it learns from, the bundled model's file, what it changes, the steps it was made for."""
import tempfile
import unittest
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch

from support import ROOT  # puts samples/train on the path
import lora
import segments
import stfile
from bundle import Bundle
from config import FEW_STEPS, DistillStage
from sample import few_step_sigmas, sigmas

MODEL = ROOT / "samples/models/shapes-tiny"
FILE = MODEL / "lora-4-steps.safetensors"


class Steps(unittest.TestCase):
    def test_are_four_steps_of_the_model_s_own_schedule(self):
        np.testing.assert_allclose(few_step_sigmas(), [1, 0.9, 0.75, 0.5, 0])
        np.testing.assert_allclose(few_step_sigmas(), sigmas(len(FEW_STEPS)))


class Segments(unittest.TestCase):
    """A teacher whose velocity is x + condition, 1 with the caption and 0 without: guidance 3 makes it x + 3."""

    def make(self, student) -> tuple[torch.Tensor, torch.Tensor]:
        yes, no = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
        noise = torch.full((1, 16, 1, 2, 2), 0.5)
        return segments.segments(lambda x, t, states: x + states.mean(dim=(1, 2))[:, None, None, None, None], student,
                                 noise, yes, no, DistillStage(guidance=3.0))

    def exact(self, x: torch.Tensor, a: float, b: float) -> torch.Tensor:
        """Of dx / dsigma = x + 3."""
        return (x + 3) * np.exp(b - a) - 3

    def test_velocities_lead_to_where_guidance_leads(self):
        x, v = self.make(None)
        levels = few_step_sigmas()
        for i, (a, b) in enumerate(zip(levels[:-1], levels[1:])):
            end = x[:, i].float() + (b - a) * v[:, i].float()
            torch.testing.assert_close(end, self.exact(x[:, i].float(), a, b), atol=4e-3, rtol=0)
            if i + 1 < len(levels) - 1:
                torch.testing.assert_close(end, x[:, i + 1].float(), atol=2e-3, rtol=0)

    def test_rollouts_follow_the_student_and_correct_it(self):
        x, v = self.make(lambda x, t, states: torch.zeros_like(x))  # a student that stays where it is
        self.assertTrue((x == 0.5).all())
        end = 0.5 + (few_step_sigmas()[3] - few_step_sigmas()[2]) * v[:, 2].float()
        torch.testing.assert_close(end, self.exact(torch.full_like(end, 0.5), 0.75, 0.5), atol=4e-3, rtol=0)


class BundledLora(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        torch.set_num_threads(1)
        cls.base = Bundle(MODEL, "cpu")
        cls.factors = lora.read(FILE, cls.base.dit)

    def velocity(self, strength: float) -> torch.Tensor:
        dit = deepcopy(self.base.dit)
        lora.merge(dit, self.factors, strength)
        generator = torch.Generator().manual_seed(1)
        x, states = torch.randn(1, 16, 3, 4, 4, generator=generator), torch.randn(1, 8, 128, generator=generator)
        with torch.no_grad():
            return dit(x, torch.tensor([900.0]), states)

    def test_file_is_small_and_has_every_linear_of_the_model(self):
        self.assertLess(FILE.stat().st_size, 1_000_000)
        self.assertEqual(set(self.factors), set(lora.linears(self.base.dit)))
        self.assertIn("diffusion_model.blocks.5.ffn.2.lora_up.weight", stfile.read(FILE))

    def test_header_says_how_to_sample(self):
        header = stfile.metadata(FILE)
        self.assertEqual({k: v for k, v in header.items() if k.startswith("few_step.")},
                         {"few_step.sampler": "euler", "few_step.timesteps": "1000,750,500,250",
                          "few_step.flow_shift": "3", "few_step.guidance_scale": "1"})

    def test_changes_the_velocity_by_its_strength(self):
        plain, half, full = (self.velocity(s) for s in (0.0, 0.5, 1.0))
        self.assertGreater((full - plain).norm() / plain.norm(), 0.05)
        self.assertGreater((full - half).norm() / plain.norm(), 0.01)
        self.assertLess((half - plain).norm(), (full - plain).norm())


class Files(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = Path(folder.name) / "lora.safetensors"
        self.dit = Bundle(MODEL, "cpu").dit

    def test_written_factors_come_back(self):
        factors = {n: (down, torch.ones_like(up)) for n, (down, up) in lora.fresh(self.dit, 4).items()}
        lora.write(factors, self.file)
        read = lora.read(self.file, self.dit)
        self.assertEqual(set(read), set(factors))
        for n, (down, up) in factors.items():
            torch.testing.assert_close(read[n][0], down.half().float())
            torch.testing.assert_close(read[n][1], up)

    def test_alpha_scales_the_additions(self):
        name = "diffusion_model.head.head"
        stfile.write({f"{name}.lora_down.weight": torch.ones(2, 192), f"{name}.lora_up.weight": torch.ones(64, 2),
                      f"{name}.alpha": torch.tensor(1.0)}, self.file)
        before = self.dit.head.head.weight.clone()
        lora.merge(self.dit, lora.read(self.file, self.dit), 3.0)
        torch.testing.assert_close(self.dit.head.head.weight.data, before + 3.0 * 1 / 2 * 2)

    def test_tensors_without_a_place_are_refused(self):
        ones = torch.ones(2, 192)
        for tensors in ({}, {"diffusion_model.blocks.6.ffn.0.lora_down.weight": ones},
                        {"diffusion_model.head.head.lora_down.weight": ones},
                        {"diffusion_model.head.head.lora_down.weight": ones,
                         "diffusion_model.head.head.lora_up.weight": torch.ones(65, 2)}):
            stfile.write(tensors, self.file)
            with self.assertRaises(ValueError):
                lora.read(self.file, self.dit)


if __name__ == "__main__":
    unittest.main()
