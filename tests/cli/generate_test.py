"""Clips that come out: every format, the same bits twice, what is reported."""
from __future__ import annotations

import json
import os
import subprocess
import unittest
from pathlib import Path

from support import COMPARE, MODEL, PROMPT, SMALL, CliTest, have

SWIFTSHADER = Path("/usr/lib/chromium/vk_swiftshader_icd.json")


class Generate(CliTest):
    def clip(self, *arguments, **options) -> str:
        return self.assert_done(self.video("-m", MODEL, "-p", PROMPT, *SMALL, *arguments, **options))

    def test_every_format_in_one_run(self) -> None:
        outputs = ["a.mp4", "a.webm", "a.gif", "a.y4m", "frames/"]
        self.clip(*(word for o in outputs for word in ("-o", o)))
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()),
                         ["a.gif", "a.mp4", "a.webm", "a.y4m", "frames"])
        self.assertEqual(len(list((self.folder / "frames").iterdir())), 5)
        if not have("ffprobe"):
            self.skipTest("no ffprobe to read the files with")
        for name in outputs[:4]:
            probe = subprocess.run(
                ["ffprobe", "-v", "error", "-count_frames", "-of", "json", "-show_entries",
                 "stream=width,height,nb_read_frames:format_tags", self.folder / name],
                capture_output=True, check=True)
            report = json.loads(probe.stdout)
            stream = report["streams"][0]
            self.assertEqual((stream["width"], stream["height"]), (48, 32), name)
            self.assertEqual(stream["nb_read_frames"], "5", name)
            if name != "a.y4m":
                tags = {k.lower(): v for k, v in report["format"]["tags"].items()}
                record = json.loads(tags["comment"])
                self.assertEqual((record["prompt"], record["seed"]), (PROMPT, 0), name)

    def test_standard_output_carries_y4m_alone(self) -> None:
        result = self.video("-m", MODEL, "-p", PROMPT, *SMALL, "-o", "-")
        self.assert_done(result)
        self.assertTrue(result.stdout.startswith(b"YUV4MPEG2 W48 H32 "))
        self.assertEqual(result.stdout.count(b"FRAME\n"), 5)
        self.assert_no_output()

    def test_same_seed_same_bits(self) -> None:
        for name, seed in (("a.npy", "7"), ("b.npy", "7"), ("c.npy", "8")):
            self.clip("-o", "a.y4m", "--seed", seed, "--save-latents", name)
        first, again, other = ((self.folder / n).read_bytes() for n in ("a.npy", "b.npy", "c.npy"))
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)

    def test_arithmetic_tiers_and_drivers_agree(self) -> None:
        self.clip("-o", "here/")
        if SWIFTSHADER.exists():
            driver = {"VK_DRIVER_FILES": str(SWIFTSHADER), "VK_ICD_FILENAMES": str(SWIFTSHADER)}
            self.clip("-o", "there/", env={**os.environ, **driver})
            result = self.run_tool(COMPARE, "here", "there", "--min-psnr", "40")
            self.assertEqual(result.returncode, 0, result.stdout)
        self.clip("-o", "portable/", "--arithmetic", "portable")
        result = self.run_tool(COMPARE, "here", "portable", "--min-psnr", "60")
        self.assertEqual(result.returncode, 0, result.stdout)

    def test_every_sampler(self) -> None:
        clips = set()
        for sampler in ("unipc", "dpm++", "euler", "lcm"):
            self.clip("-o", "a.y4m", "--sampler", sampler, "--steps", "4")
            clips.add((self.folder / "a.y4m").read_bytes())
        self.assertEqual(len(clips), 4)

    def test_sparse_attention(self) -> None:
        """All pairs listed is dense attention; fewer change the clip, each correction its own way."""
        long = ["--size", "48x32", "--frames", "9", "--steps", "6", "--refresh-interval", "2",
                "--progress", "none"]
        self.clip(*long, "-o", "dense/")
        self.clip(*long, "-o", "all/", "--attention", "sparse", "--density", "1")
        result = self.run_tool(COMPARE, "dense", "all", "--min-psnr", "90")
        self.assertEqual(result.returncode, 0, result.stdout)
        clips = set()
        for extra in (["--ssar", "off"], ["--ssar", "none", "--sink", "none"], ["--ssar", "first"],
                      ["--ssar", "second", "--residual", "int4"],
                      ["--ssar", "third", "--residual", "half"], ["--ssar", "svd"],
                      ["--residual", "lowrank", "--ssar-rank", "4"],
                      ["--ssar-span", "adjacent", "--ssar-gain", "sigma"],
                      ["--sink", "frame0"], ["--mask-granularity", "block"]):
            self.clip(*long, "-o", "a.y4m", "--attention", "sparse", "--block-size", "32", *extra)
            clips.add((self.folder / "a.y4m").read_bytes())
        self.assertEqual(len(clips), 10)

    def test_chosen_blocks(self) -> None:
        """Six blocks: fewer change the clip, all are dense attention."""
        command = ["--size", "96x96", "--frames", "17", "--steps", "2", "--refresh-interval", "2",
                   "--dense-steps", "0", "--progress", "none"]
        chosen = ["--attention", "sparse", "--mask", "topk", "--sink", "none", "--ssar"]
        self.clip(*command, "-o", "dense/")
        self.clip(*command, "-o", "all/", *chosen, "off", "--top-p", "1", "--block-order", "tiles")
        result = self.run_tool(COMPARE, "dense", "all", "--min-psnr", "90")
        self.assertEqual(result.returncode, 0, result.stdout)
        for mode in ("off", "svd"):
            self.clip(*command, "-o", f"{mode}/", *chosen, mode, "--profile=times.json")
            result = self.run_tool(COMPARE, "dense", mode, "--min-psnr", "90")
            self.assertNotEqual(result.returncode, 0, result.stdout)
            for layer in json.loads((self.folder / "times.json").read_text())["attention"]:
                self.assertEqual(len(set(layer["densities"])), 1)  # of each head, by the rule
                self.assertEqual(layer["densities"][0], 16 / 36)   # each row and its neighbours

    def test_attention_in_8_bits(self) -> None:
        """Another arithmetic, nearly the same clip, in refreshes and between them."""
        clips = set()
        for arithmetic, least in (("full", "90"), ("int8-qk", "55"), ("int8", "50")):
            self.clip("--steps", "3", "--refresh-interval", "2", "--attention", "sparse",
                      "--attention-arithmetic", arithmetic, "--progress", "none", "-o", f"{arithmetic}/")
            result = self.run_tool(COMPARE, "full", arithmetic, "--min-psnr", least)
            self.assertEqual(result.returncode, 0, result.stdout)
            clips.add(b"".join(p.read_bytes() for p in sorted((self.folder / arithmetic).iterdir())))
        self.assertEqual(len(clips), 3)

    def test_steps_are_reused(self) -> None:
        long = ["--size", "48x32", "--frames", "5", "--steps", "8", "--progress", "none"]
        self.clip(*long, "-o", "all.y4m", "--attention", "sparse")
        self.clip(*long, "-o", "none.y4m", "--attention", "sparse", "--step-cache", "0")
        self.clip(*long, "-o", "few.y4m", "--attention", "sparse", "--step-cache", "2")
        whole, same, few = ((self.folder / f"{n}.y4m").read_bytes() for n in ("all", "none", "few"))
        self.assertEqual(whole, same)
        self.assertNotEqual(whole, few)
        plan = self.video("-m", MODEL, *SMALL, *long, "--attention", "sparse", "--step-cache", "2",
                          "--plan", "--json")
        self.assert_done(plan)
        steps = json.loads(plan.stdout)["steps"]
        self.assertEqual(sum(steps.values()), 8)
        self.assertGreater(steps["reused"], 0)
        self.assertGreater(steps["refresh"], 0)

    def test_sparse_attention_is_recorded(self) -> None:
        self.clip("-o", "a.mp4", "--attention", "sparse", "--steps", "3", "--refresh-interval", "2",
                  "--profile=times.json")
        profile = json.loads((self.folder / "times.json").read_text())
        self.assertTrue(profile["attention"])
        for layer in profile["attention"]:
            self.assertGreaterEqual(layer["layer"], 1)
            self.assertEqual(len(layer["head_types"]), len(layer["flips"]))
            self.assertEqual((layer["refused"] in (0, 1), layer["non_finite"]), (True, 0))
        if not have("ffprobe"):
            self.skipTest("no ffprobe to read the file with")
        probe = subprocess.run(["ffprobe", "-v", "error", "-of", "json", "-show_entries",
                                "format_tags", self.folder / "a.mp4"],
                               capture_output=True, check=True)
        tags = {k.lower(): v for k, v in json.loads(probe.stdout)["format"]["tags"].items()}
        attention = json.loads(tags["comment"])["attention"]
        self.assertEqual((attention["kind"], attention["density"], attention["ssar"],
                          attention["refresh_interval"], attention["dense_steps"]),
                         ("sparse", 0.25, "first", 2, 0))  # below 8 steps

    def test_a_long_prompt_is_cut_with_a_warning(self) -> None:
        errors = self.assert_done(self.video("-m", MODEL, "-p", "red circle " * 200, *SMALL,
                                             "-o", "a.gif", "--progress", "none"))
        self.assertIn("prompt", errors)
        self.assertRegex(errors, "truncated|cut|longer")

    def test_reports(self) -> None:
        errors = self.clip("-o", "a.gif", "--profile=times.json", "--preview", "preview.png",
                           "--preview-interval", "1", "--progress", "json")
        reports = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
        stages = [r["stage"] for r in reports]
        self.assertIn("denoise", stages)
        self.assertIn("decode", stages)
        self.assertTrue(any(r["done"] == r["total"] == 2 for r in reports if r["stage"] == "denoise"))
        profile = json.loads((self.folder / "times.json").read_text())
        self.assertTrue(profile["operations"])
        self.assertGreater(sum(o["milliseconds"] for o in profile["operations"]), 0)
        self.assertTrue((self.folder / "preview.png").read_bytes().startswith(b"\x89PNG"))

    def test_quiet_prints_nothing(self) -> None:
        result = self.video("-m", MODEL, "-p", PROMPT, *SMALL, "-o", "a.gif", "--quiet")
        self.assert_done(result)
        self.assertEqual(result.stdout + result.stderr, b"")

    def test_full_disk(self) -> None:
        """/dev/full accepts being opened and refuses every byte."""
        if not Path("/dev/full").exists():
            self.skipTest("no /dev/full")
        result = self.video("-m", MODEL, "-p", PROMPT, *SMALL, "-o", "/dev/full", "--format", "mp4",
                            "--progress", "none")
        self.assert_refused(result, 1, "No space left")

    def test_full_disk_removes_the_other_outputs(self) -> None:
        os.symlink("/dev/full", self.folder / "input-full.y4m")
        result = self.video("-m", MODEL, "-p", PROMPT, *SMALL, "-o", "a.gif", "-o",
                            "input-full.y4m", "--progress", "none")
        self.assert_refused(result, 1, "No space left")


if __name__ == "__main__":
    unittest.main()
