"""Few steps, lists of levels, guidance, noise: what they do to a clip, and what its record says."""
from __future__ import annotations

import json
import struct
import unittest
from pathlib import Path

from support import MODEL, PROMPT, CliTest

ONE = ["--size", "48x48", "--frames", "1", "--progress", "none"]


def record_of(png: Path) -> dict:
    """The parameters in a png's text chunk."""
    raw = png.read_bytes()
    place = 8
    while place < len(raw):
        length, kind = struct.unpack(">I4s", raw[place:place + 8])
        if kind == b"iTXt":
            return json.loads(raw[place + 8:place + 8 + length].split(b"\0", 5)[-1])
        place += length + 12
    raise ValueError("no parameters")


class Sampling(CliTest):
    def latents(self, *arguments) -> bytes:
        self.errors = self.assert_done(self.video(
            "-m", MODEL, "-p", PROMPT, *ONE, "-o", "a.png", "--save-latents", "a.npy", *arguments))
        return (self.folder / "a.npy").read_bytes()

    def plan(self, *arguments) -> dict:
        result = self.video("-m", MODEL, *ONE, "--plan", "--json", *arguments)
        self.assert_done(result)
        return json.loads(result.stdout)

    def refused(self, words: list[str], *arguments) -> None:
        with self.subTest(arguments=arguments):
            (self.folder / "a.png").unlink(missing_ok=True)
            (self.folder / "a.npy").unlink(missing_ok=True)
            result = self.video("-m", MODEL, "-p", PROMPT, *ONE, "-o", "a.png", *arguments)
            self.assert_refused(result, 2, *words)

    def test_a_preset_is_what_it_stands_for(self) -> None:
        preset = self.latents("--few-steps", "lightx2v-4")
        record = record_of(self.folder / "a.png")
        self.assertEqual((record["few_steps"], record["sampler"], record["steps"]),
                         ("lightx2v-4", "euler", 4))
        self.assertEqual((record["timesteps"], record["flow_shift"], record["guidance_scale"]),
                         ([1000, 750, 500, 250], 5, 1))
        self.assertEqual(preset, self.latents("--timesteps", "1000,750,500,250", "--flow-shift", "5",
                                              "--guidance-scale", "1"))
        self.assertNotIn("few_steps", record_of(self.folder / "a.png"))
        self.assertEqual(preset, self.latents("--sigmas", "1,0.75,0.5,0.25", "--flow-shift", "5",
                                              "--guidance-scale", "1"))
        fastwan = self.latents("--few-steps", "fastwan-3")
        self.assertEqual(fastwan, self.latents("--sampler", "dmd", "--timesteps", "1000,757,522",
                                               "--flow-shift", "8", "--guidance-scale", "1"))
        turbo = self.latents("--few-steps", "turbo-4")
        self.assertNotIn("flow_shift", record_of(self.folder / "a.png"))
        self.assertEqual(turbo, self.latents("--sampler", "rcm", "--guidance-scale", "1"))
        self.assertEqual(len({preset, fastwan, turbo}), 3)

    def test_the_plan_says_how_it_is_sampled(self) -> None:
        sampling = self.plan("--few-steps", "fastwan-3", "--rng", "torch")["sampling"]
        self.assertEqual((sampling["few_steps"], sampling["sampler"], sampling["rng"]),
                         ("fastwan-3", "dmd", "torch"))
        table = self.video("-m", MODEL, *ONE, "--plan", "--few-steps", "turbo-4")
        self.assertIn(b"rcm (turbo-4), guidance scale 1", table.stdout)

    def test_contradictions_are_named(self) -> None:
        self.refused(["--flow-shift", "lightx2v-4"], "--few-steps", "lightx2v-4", "--flow-shift", "3")
        self.refused(["--sampler", "fastwan-3"], "--few-steps", "fastwan-3", "--sampler", "lcm")
        self.refused(["--steps", "turbo-4"], "--few-steps", "turbo-4", "--steps", "3")
        self.refused(["--sigmas", "steps"], "--sigmas", "1,0.5", "--steps", "3")
        self.refused(["--sigmas", "timesteps"], "--sigmas", "1,0.5", "--timesteps", "1000,500")
        self.refused(["--sigmas", "0.75"], "--sigmas", "1,0.5,0.75")
        self.refused(["--sigmas", "commas"], "--sigmas", "1;0.5")
        self.refused(["--timesteps", "unipc"], "--timesteps", "1000,500", "--sampler", "unipc")
        self.refused(["--sampler", "timesteps"], "--sampler", "dmd")
        self.refused(["--steps", "rcm"], "--sampler", "rcm", "--steps", "5")
        self.refused(["--few-steps", "lightx2v-4|fastwan-3|turbo-4"], "--few-steps", "lcm-8")

    def test_guidance_up_to_1_is_one_forward(self) -> None:
        off = self.latents("--steps", "2", "--guidance-scale", "1")
        for scale in ("0", "0.5"):
            self.assertEqual(off, self.latents("--steps", "2", "--guidance-scale", scale))
            self.assertIn(f"guidance_scale {scale} is below 1", self.errors)
        self.assertNotEqual(off, self.latents("--steps", "2", "--guidance-scale", "1.5"))
        self.latents("--steps", "2", "--guidance-scale", "1", "-n", "blue")
        self.assertIn("negative prompt has no effect", self.errors)
        residual = ["--attention", "sparse", "--ssar", "first"]
        one, two = (next(s["residual_bytes"] for s in self.plan(*residual, "--guidance-scale", scale)
                         ["stages"] if s["stage"] == "dit") for scale in ("0", "2"))
        self.assertAlmostEqual(two / one, 2, 1)

    def test_noise_of_torch_is_another(self) -> None:
        seeds = ["--steps", "2", "--seed", "4294967301"]
        philox, torch = (self.latents(*seeds, "--rng", rng) for rng in ("philox", "torch"))
        self.assertEqual(record_of(self.folder / "a.png")["rng"], "torch")
        self.assertNotEqual(philox, torch)
        self.assertEqual(philox, self.latents(*seeds))
        self.assertEqual(torch, self.latents("--steps", "2", "--seed", "5", "--rng", "torch"))


if __name__ == "__main__":
    unittest.main()
