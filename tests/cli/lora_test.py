"""--lora: what it does to a clip, what is reported, and which files are refused."""
from __future__ import annotations

import json
import struct
import unittest
from pathlib import Path

from support import (MODEL, PROMPT, SMALL, CliTest, copy_model, read_safetensors, write_lora,
                     write_safetensors)

QUERY = "blocks.0.attn1.to_q.weight"
WIDTH = 192  # of the bundled model
ROW, COLUMN = 3, 5


def change_of_one_weight(model_file: Path) -> float:
    """Adds a quarter to one weight of the file, in place; returns what that is after rounding."""
    header, data = read_safetensors(model_file)
    place = header[QUERY]["data_offsets"][0] + 2 * (WIDTH * ROW + COLUMN)
    before = struct.unpack_from("<e", data, place)[0]
    changed = bytearray(data)
    struct.pack_into("<e", changed, place, before + 0.25)
    write_safetensors(model_file, header, bytes(changed))
    return struct.unpack_from("<e", changed, place)[0] - before


def one_weight(change: float) -> dict[str, tuple[list[int], list[float]]]:
    """A LoRA of rank 1 that adds `change` to one weight."""
    down, up = [0.0] * WIDTH, [0.0] * WIDTH
    down[COLUMN], up[ROW] = change, 1.0
    name = "transformer.blocks.0.attn1.to_q"
    return {f"{name}.lora_A.weight": ([1, WIDTH], down), f"{name}.lora_B.weight": ([WIDTH, 1], up)}


class Lora(CliTest):
    def latents(self, model: Path | str, *arguments) -> bytes:
        self.errors = self.assert_done(self.video("-m", model, "-p", PROMPT, *SMALL, "-o", "a.y4m",
                                                  "--save-latents", "a.npy", *arguments))
        return (self.folder / "a.npy").read_bytes()

    def refused(self, code: int, words: list[str], *arguments) -> None:
        with self.subTest(arguments=arguments):
            self.assert_refused(self.video("-m", MODEL, "-p", PROMPT, *SMALL, "-o", "a.y4m",
                                           *arguments), code, *words)

    def test_a_clip_is_that_of_the_changed_weights(self) -> None:
        change = change_of_one_weight(copy_model(self.folder))
        # Two halves, the second file's with twice the strength of half of it; the name has a colon.
        write_lora(self.folder / "input-a:b.safetensors", one_weight(change / 2))
        write_lora(self.folder / "input-c.safetensors", one_weight(change / 4))
        plain = self.latents(MODEL)
        changed = self.latents("input-model")
        self.assertNotEqual(plain, changed)
        both = ("--lora", "input-a:b.safetensors", "--lora", "input-c.safetensors:2")
        self.assertEqual(self.latents(MODEL, *both), changed)
        self.assertEqual(self.latents(MODEL, "--lora", "input-c.safetensors:0"), plain)

    def test_plan_names_the_files(self) -> None:
        write_lora(self.folder / "input.safetensors", one_weight(1))
        arguments = ("-m", MODEL, *SMALL, "--plan", "--lora", "input.safetensors:0.5")
        text = self.video(*arguments)
        self.assert_done(text)
        self.assertIn(b"LoRA input.safetensors, strength 0.5", text.stdout)
        plan = json.loads(self.video(*arguments, "--json").stdout)
        self.assertEqual(plan["adapters"], [{"file": "input.safetensors", "strength": 0.5}])

    def test_settings_of_the_training_are_said_when_the_run_differs(self) -> None:
        metadata = {"few_step.sampler": "lcm", "few_step.timesteps": "1000,500",
                    "few_step.guidance_scale": "1"}
        write_lora(self.folder / "input.safetensors", one_weight(1), metadata)
        self.latents(MODEL, "--lora", "input.safetensors")
        self.assertIn("was trained for sampler lcm, timesteps 1000,500, guidance_scale 1; this run "
                      "has sampler unipc, 2 steps, guidance_scale 1", self.errors)
        self.latents(MODEL, "--lora", "input.safetensors", "--sampler", "lcm")
        self.assertNotIn("was trained", self.errors)

    def test_what_the_model_lacks_is_said(self) -> None:
        image = "transformer.blocks.0.attn2.add_k_proj"
        write_lora(self.folder / "input.safetensors",
                   {**one_weight(1), f"{image}.lora_A.weight": ([1, WIDTH], [0.0] * WIDTH),
                    f"{image}.lora_B.weight": ([WIDTH, 1], [0.0] * WIDTH)})
        self.latents(MODEL, "--lora", "input.safetensors")
        self.assertIn("2 of its tensors are left out", self.errors)
        self.assertIn(f"{image}.lora_A.weight", self.errors)

    def test_files_that_do_not_fit_are_refused(self) -> None:
        write_lora(self.folder / "input.safetensors", one_weight(1))
        self.refused(2, ["--lora", "nowhere.safetensors"], "--lora", "nowhere.safetensors")
        self.refused(2, ["--lora", "one transformer"], "--lora", "input.safetensors:1:high")
        self.refused(2, ["--lora", "strength"], "--lora", "input.safetensors:1000")
        self.refused(1, ["--lora", "no LoRA file"], "--lora",
                     MODEL / "transformer" / "diffusion_pytorch_model.safetensors")
        name = "diffusion_model.blocks.0.self_attn.q"
        write_lora(self.folder / "input-wide.safetensors",
                   {f"{name}.lora_down.weight": ([1, 320], [0.0] * 320),
                    f"{name}.lora_up.weight": ([320, 1], [0.0] * 320)})
        self.refused(1, ["--lora", name, "another size"], "--lora", "input-wide.safetensors")


if __name__ == "__main__":
    unittest.main()
