"""Wrong usage and impossible requests: exit 2 or 1, one line, no file."""
from __future__ import annotations

import json
import os
import unittest

from support import COMPARE, MODEL, PROMPT, SMALL, CliTest


class Usage(CliTest):
    def refused(self, code: int, words: list[str], *arguments) -> None:
        with self.subTest(arguments=arguments):
            self.assert_refused(self.video(*arguments), code, *words)

    def test_help_and_version(self) -> None:
        for flag in ("--help", "--version"):
            result = self.video(flag)
            self.assertEqual(result.returncode, 0)
            self.assertIn(b"quantsparse-video", result.stdout)

    def test_what_is_fastest_is_measured_once(self) -> None:
        cache = {**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache")}
        clip = ["-m", MODEL, "-p", PROMPT, *SMALL, "-o", "a.gif", "--quiet"]
        self.assert_done(self.video(*clip, env=cache))
        kept = list((self.folder / "cache/quantsparse").glob("tuning-*.json"))
        self.assertEqual(len(kept), 1)
        quick = json.loads(kept[0].read_text())
        self.assertIn(quick["arithmetic"], ("portable", "dot", "matrix"))
        self.assertEqual((quick["product_rows"], quick["matrix_tile"]), (0, -1))
        before = kept[0].stat().st_mtime_ns
        self.assert_done(self.video(*clip, env=cache))
        self.assertEqual(kept[0].stat().st_mtime_ns, before)
        errors = self.assert_done(self.video("--tune", env=cache))
        self.assertIn(str(kept[0]), errors)
        self.assertIn("GOP/s", errors)
        self.assertGreater(kept[0].stat().st_mtime_ns, before)
        kept[0].write_text("{}")
        self.assert_done(self.video(*clip, env=cache))
        self.assertIn("arithmetic", kept[0].read_text())
        nowhere = {**os.environ, "XDG_CACHE_HOME": "/dev/null"}
        self.assert_done(self.video(*clip, env=nowhere))
        result = self.video("--tune", "--quiet", env=nowhere)
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"XDG_CACHE_HOME", result.stderr)

    def test_incomplete_commands(self) -> None:
        model = ["-m", MODEL]
        self.refused(2, ["-m"], "-p", PROMPT, "-o", "a.mp4")
        self.refused(2, ["-o"], *model, "-p", PROMPT)
        self.refused(2, ["prompt", "-p"], *model, "-o", "a.mp4")
        self.refused(2, ["--bogus"], *model, "-p", PROMPT, "-o", "a.mp4", "--bogus")

    def test_empty_prompt(self) -> None:
        for prompt in ("", "   ", "\n\t"):
            self.refused(2, ["prompt", "empty"], "-m", MODEL, "-p", prompt, "-o", "a.mp4")

    def test_invalid_utf8(self) -> None:
        self.refused(2, ["utf-8"], "-m", MODEL, "-p", b"red \xff circle", "-o", "a.mp4", *SMALL)
        (self.folder / "input.txt").write_bytes(b"red \xc0\xaf")
        self.refused(2, ["utf-8"], "-m", MODEL, "--prompt-file", "input.txt", "-o", "a.mp4", *SMALL)

    def test_missing_prompt_file(self) -> None:
        self.refused(1, ["nowhere.txt"], "-m", MODEL, "--prompt-file", "nowhere.txt", "-o", "a.mp4")

    def test_numbers_out_of_range(self) -> None:
        command = ["-m", MODEL, "-p", PROMPT, "-o", "a.mp4"]
        for option, value in [("-W", "0"), ("-W", "-16"), ("-H", "0"), ("-H", "-5"),
                              ("--size", "0x64"), ("--size", "64"), ("--size", "64x-64"),
                              ("--frames", "0"), ("--frames", "-1"), ("--steps", "0"),
                              ("--steps", "-1"), ("--steps", "1001"), ("--fps", "0"),
                              ("--flow-shift", "0"), ("--flow-shift", "-1"),
                              ("--flow-shift", "nan"), ("--guidance-scale", "-1"),
                              ("--guidance-scale", "inf"), ("--seed", "-7"), ("--seed", "x"),
                              ("--seed", "18446744073709551616"), ("--crf", "99"),
                              ("--steps", "many"), ("--memory-limit", "much"),
                              ("--memory-limit", "0"), ("--sampler", "heun"),
                              ("--arithmetic", "fast"), ("--storage", "fp4"),
                              ("--attention", "lazy"), ("--attention-arithmetic", "int4"),
                              ("--density", "0"), ("--density", "-0.1"),
                              ("--density", "1.5"), ("--density", "nan"), ("--block-size", "0"),
                              ("--block-size", "-64"), ("--mask", "round"), ("--sink", "drain"),
                              ("--mask-granularity", "fine"), ("--ssar", "fourth"),
                              ("--ssar-rank", "0"), ("--ssar-rank", "33"),
                              ("--step-cache", "-1"), ("--step-cache", "nan"),
                              ("--ssar-span", "wide"), ("--ssar-gain", "2"),
                              ("--residual", "int2"), ("--refresh-interval", "0"),
                              ("--refresh", "some"), ("--refresh", "auto=0"),
                              ("--refresh-steps", "0,x"), ("--refresh-steps", "0,-1"),
                              ("--dense-steps", "-1"), ("--dense-layers", "-2"),
                              ("--progress", "loud"), ("--format", "avi"),
                              ("--preview", "a.bmp"), ("--save-latents", "a.bin")]:
            self.refused(2, [value], *command, option, value)

    def test_errors_of_the_library_name_the_flag(self) -> None:
        command = ["-m", MODEL, "-p", PROMPT, "-o", "a.mp4"]
        for option, value in [("--density", "2"), ("--block-size", "48"), ("--ssar-rank", "33"),
                              ("--refresh-interval", "0"), ("--dense-layers", "-2"), ("--size", "64"),
                              ("--max-vram", "much")]:
            flag = "--memory-limit" if option == "--max-vram" else option
            self.refused(2, [f"{flag}: ", value], *command, option, value)

    def test_sizes_the_model_cannot_make(self) -> None:
        """Refused with the nearest size that works, never rounded in silence."""
        for option, value, named in [("--size", "100x64", "100"), ("--size", "64x50", "50"),
                                     ("--frames", "6", "6")]:
            self.refused(2, [named], "-m", MODEL, "-p", PROMPT, "-o", "a.mp4", option, value)

    def test_unwritable_outputs(self) -> None:
        (self.folder / "input-file").write_text("a file, no folder")
        for output in ("missing/a.mp4", "missing/a.gif", "input-file/a.webm", "missing/frames/"):
            self.refused(1, [output.split("/")[0]], "-m", MODEL, "-p", PROMPT, "-o", output)
        self.refused(2, ["avi"], "-m", MODEL, "-p", PROMPT, "-o", "a.avi")
        if os.geteuid() != 0:
            os.mkdir(self.folder / "input-locked", mode=0o500)
            self.refused(1, ["input-locked"], "-m", MODEL, "-p", PROMPT, "-o", "input-locked/a.mp4")

    def test_an_existing_file_survives_a_failed_run(self) -> None:
        kept = self.folder / "input-kept.mp4"
        kept.write_bytes(b"precious")
        self.refused(1, [], "-m", "nowhere", "-p", PROMPT, "-o", kept.name)
        self.assertEqual(kept.read_bytes(), b"precious")

    def test_unknown_device(self) -> None:
        for device in ("99", "no such card"):
            self.refused(1, [device], "-m", MODEL, "-p", PROMPT, "-o", "a.mp4", "--device", device)

    def test_no_vulkan_driver(self) -> None:
        environment = {**os.environ, "VK_DRIVER_FILES": "/nowhere.json",
                       "VK_ICD_FILENAMES": "/nowhere.json"}
        result = self.video("-m", MODEL, "-p", PROMPT, "-o", "a.mp4", env=environment)
        self.assert_refused(result, 1, "driver")

    def test_too_little_memory_names_what_to_lower(self) -> None:
        self.refused(1, ["memory"], "-m", MODEL, "-p", PROMPT, "-o", "a.mp4",
                     "--memory-limit", "1M")

    def test_device_list(self) -> None:
        text = self.video("--list-devices")
        self.assert_done(text)
        self.assertIn(b"Vulkan", text.stdout)
        devices = json.loads(self.video("--list-devices", "--json").stdout)
        self.assertEqual(sum(d["is_default"] for d in devices), 1)
        self.assertTrue(all(d["note"] for d in devices if d["is_default"] or not d["usable"]))

    def test_plan(self) -> None:
        table = self.video("-m", MODEL, "--plan")
        self.assert_done(table)
        for word in (b"text_encoder", b"dit", b"vae", b"peak"):
            self.assertIn(word, table.stdout)
        plan = json.loads(self.video("-m", MODEL, "--plan", "--json", "--size", "64x64").stdout)
        self.assertEqual(plan["width"], 64)
        self.assertEqual({s["stage"] for s in plan["stages"]}, {"text_encoder", "dit", "vae"})
        self.assertGreaterEqual(plan["peak_bytes"], max(s["total_bytes"] for s in plan["stages"]))
        self.assert_no_output()

    def test_plan_of_residuals(self) -> None:
        def residuals(*arguments) -> int:
            result = self.video("-m", MODEL, "--plan", "--json", "--attention", "sparse", *arguments)
            self.assert_done(result)
            stages = {s["stage"]: s for s in json.loads(result.stdout)["stages"]}
            self.assertEqual(stages["vae"]["residual_bytes"], 0)
            dit = stages["dit"]
            self.assertEqual(dit["total_bytes"], sum(
                dit[key] for key in ("weight_bytes", "activation_bytes", "residual_bytes",
                                     "staging_bytes")))
            return dit["residual_bytes"]
        self.assertEqual(residuals("--ssar", "off"), 0)
        self.assertEqual(residuals("--ssar", "none"), 0)
        half = residuals("--ssar", "first", "--residual", "half")
        int8 = residuals("--ssar", "first", "--residual", "int8")
        int4 = residuals("--ssar", "first", "--residual", "int4")
        self.assertTrue(0 < int4 < int8 < half)
        self.assertAlmostEqual(residuals("--ssar", "third", "--residual", "half") / half, 3, 1)
        self.assertAlmostEqual(residuals("--ssar", "first", "--residual", "half",
                                         "--guidance-scale", "1") / half, 0.5, 1)
        table = self.video("-m", MODEL, "--plan", "--attention", "sparse")
        self.assertIn(b"residuals", table.stdout)

    def test_attention_combinations_that_cannot_be(self) -> None:
        command = ["-m", MODEL, "-p", PROMPT, "-o", "a.mp4", "--attention", "sparse"]
        self.refused(2, ["low-rank"], *command, "--residual", "lowrank", "--ssar", "second")
        self.refused(2, ["--top-p: ", "topk"], *command, "--top-p", "0.5")
        self.refused(2, ["--top-p: ", "2"], *command, "--top-p", "2")
        self.refused(2, ["--block-order: ", "topk"], *command, "--block-order", "tiles")
        self.refused(2, ["span"], *command, "--ssar", "third", "--ssar-span", "adjacent")
        self.refused(2, ["48"], *command, "--block-size", "48")

    def test_where_refreshes_stand(self) -> None:
        def counts(*arguments) -> dict:
            result = self.video("-m", MODEL, "--plan", "--json", "--attention", "sparse", *arguments)
            self.assert_done(result)
            return json.loads(result.stdout)["steps"]
        for arguments, refreshes, sparse in [
                (["--steps", "8"], 2, 6), (["--steps", "8", "--refresh", "auto"], 2, 6),
                (["--steps", "8", "--refresh", "auto=3"], 3, 5), (["--steps", "8", "--refresh-steps", "0,1,2,7"], 4, 4),
                (["--steps", "8", "--refresh-interval", "1"], 8, 0), (["--steps", "20"], 4, 16)]:
            steps = counts(*arguments)
            self.assertEqual((steps["refresh"], steps["sparse"]), (refreshes, sparse), arguments)
        command = ["-m", MODEL, "-p", PROMPT, "-o", "a.mp4", "--attention", "sparse", "--steps", "4"]
        self.refused(2, ["--refresh-steps", "step 4"], *command, "--refresh-steps", "0,4")
        self.refused(2, ["--refresh-steps", "step 0"], *command, "--refresh-steps", "1,2")
        self.refused(2, ["--refresh:", "5 refreshes", "4 steps"], *command, "--refresh", "auto=5")
        self.refused(2, ["exclude"], *command, "--refresh", "auto=2", "--refresh-interval", "5")
        self.refused(2, ["evenly"], *command, "--refresh", "auto=2", "--ssar", "third")

    def test_compare_refuses_what_is_no_clip(self) -> None:
        result = self.run_tool(COMPARE, "nowhere", "nothing")
        self.assert_refused(result, 1, "nowhere")


if __name__ == "__main__":
    unittest.main()
