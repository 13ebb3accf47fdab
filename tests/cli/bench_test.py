"""quantsparse-bench on the bundled model's shapes: what it measures, and that it says what it extrapolates."""
from __future__ import annotations

import json
import unittest

from support import BIN, MODEL, CliTest

BENCH = BIN / "quantsparse-bench"


class BenchTest(CliTest):
    def bench(self, *arguments):
        return self.run_tool(BENCH, *[str(a) for a in arguments])

    def done(self, *arguments) -> tuple[str, dict]:
        """Standard output and the JSON of a run that must succeed."""
        file = self.folder / "out.json"
        result = self.bench(*arguments, "--json", file)
        self.assert_done(result)
        return result.stdout.decode(), json.loads(file.read_text())

    def test_a_block_with_sparse_attention(self):
        text, out = self.done("model", "--config", MODEL, "--tokens", 512, "--repeats", 2, "--attention", "sparse",
                              "--density", "0.3", "--refresh-interval", 4)
        kinds = {s["kind"]: s for s in out["steps"]}
        self.assertEqual(set(kinds), {"refresh", "sparse"})
        self.assertGreater(kinds["refresh"]["operations"], kinds["sparse"]["operations"])
        mean = (kinds["refresh"]["seconds_min"] + 3 * kinds["sparse"]["seconds_min"]) / 4
        self.assertAlmostEqual(out["period_seconds_min"], mean, places=9)
        self.assertGreater(out["residual_bytes"], 0)
        self.assertIn("refresh period", text)

    def test_a_dense_block_and_all_of_the_models_blocks(self):
        _, one = self.done("model", "--config", MODEL, "--tokens", 64, "--repeats", 1)
        self.assertEqual([s["kind"] for s in one["steps"]], ["dense"])
        self.assertEqual(one["residual_bytes"], 0)
        _, all_of_them = self.done("model", "--config", MODEL, "--tokens", 64, "--repeats", 1, "--layers", 0)
        self.assertGreater(all_of_them["weight_bytes"], 1.5 * one["weight_bytes"])  # embeddings are in both

    def test_table4(self):
        html = self.folder / "out.html"
        text, out = self.done("table4", "--config", MODEL, "--tokens", 256, "--clip-tokens", 1296, "--steps", 10,
                              "--repeats", 2, "--density", "0.25", "--html", html)
        self.assertEqual([r["name"] for r in out["rows"]],
                         ["16-bit, dense attention", "W4A8, dense attention", "W4A8, 25 %, no SSAR", "W4A8, 25 % + SSAR"])
        floating, quantised, plain, sparse = out["rows"]
        self.assertEqual(plain["memory_residuals"], 0)
        self.assertNotIn("ssar_adds", plain)
        self.assertGreater(sparse["ssar_adds"], -1)
        self.assertLess(quantised["storage_bytes"], floating["storage_bytes"])
        self.assertEqual(sparse["storage_bytes"], quantised["storage_bytes"])
        self.assertGreater(sparse["memory_residuals"], 0)
        self.assertEqual(floating["block_speed"], 1)
        self.assertIn("EXTRAPOLATED", text)
        page = html.read_text()
        self.assertIn("EXTRAPOLATED", page)
        self.assertEqual(page.count("<svg"), 4)

    def test_real_sizes_fit_their_memory(self):
        """The plans of the README, with the smallest bindings and allocations that a device may have."""
        gib = 1 << 30
        for model, size, limit in (("wan-1.3b", "832x480", 6), ("wan-14b", "1280x720", 16)):
            text, out = self.done("model", "--config", model, "--size", size, "--frames", 81, "--guidance",
                                  "--attention", "sparse", "--plan", "--no-device", "--memory-limit", f"{limit}G")
            self.assertLessEqual(out["peak_bytes"], limit * gib, model)
            self.assertIn("fits", text)

    def test_a_models_autoencoder(self):
        clip = self.folder / "clip"
        self.assert_done(self.video("-m", MODEL, "-p", "a red circle moves left on a black background", "--size", "96x96",
                                    "--frames", "9", "--steps", "4", "-q", "-o", f"{clip}/"))
        text, out = self.done("vae", "-m", MODEL, clip, clip)
        self.assertEqual(len(out["clips"]), 2)
        self.assertEqual(out["clips"][0]["psnr_db"], out["clips"][1]["psnr_db"])
        self.assertGreater(out["mean_db"], 20)
        self.assertIn("dB mean", text)

    def velocity(self, groups: list[dict], *arguments):
        """A run of a table with two prompts of six steps; the work directory stays between runs."""
        table = self.folder / "table.json"
        table.write_text(json.dumps({
            "title": "test", "model": str(MODEL), "settings": ["--size", "96x96", "--frames", "9", "--steps", "6"],
            "prompts": ["a red circle moves left on a black background", "a blue star grows on a white background"],
            "groups": groups}))
        return self.bench("velocity", "--table", table, "--work-dir", self.folder / "work", "--json",
                          self.folder / "out.json", "--html", self.folder / "out.html", *arguments)

    def test_velocities_of_rows_against_the_dense_run(self):
        static = ["--attention", "sparse", "--density", "0.3", "--ssar", "off", "--dense-steps", "0"]
        ssar = ["--attention", "sparse", "--density", "0.3", "--ssar", "first", "--refresh-interval", "2"]
        groups = [{"title": "masks", "against": "dense",
                   "rows": [{"name": "static", "flags": static}, {"name": "dense"}]},
                  {"title": "residuals", "measure": "path",
                   "rows": [{"name": "static", "flags": static}, {"name": "first", "flags": ssar}]},
                  {"title": "clips", "measure": "latents",
                   "rows": [{"name": "static", "flags": static}, {"name": "dense"}]}]
        first = self.velocity(groups)
        self.assert_done(first)
        masks, residuals, clips = json.loads((self.folder / "out.json").read_text())["groups"]
        static_row, dense = masks["rows"]
        self.assertEqual(dense["snr_db"]["mean"], 120)
        self.assertLess(static_row["snr_db"]["mean"], 40)
        self.assertAlmostEqual(static_row["difference_db"]["mean"], static_row["snr_db"]["mean"] - 120)
        self.assertEqual((static_row["prompts"], static_row["dense_layers"]), (2, 1))
        self.assertLess(static_row["pairs"], dense["pairs"])
        self.assertEqual(residuals["rows"][1]["steps"], [0, 1, 2, 3, 4, 5])
        self.assertGreater(residuals["rows"][1]["difference_db"]["mean"], 3)
        self.assertEqual(clips["rows"][1]["snr_db"]["mean"], 120)
        self.assertIn("levels", (self.folder / "out.html").read_text())

        again = self.velocity(groups)
        self.assert_done(again)
        self.assertEqual((again.stdout, again.stderr), (first.stdout, b""), "nothing is measured twice")

    def test_a_table_runs_with_another_model_and_other_prompts(self):
        table, prompts, work = self.folder / "other.json", self.folder / "prompts.txt", self.folder / "other"
        table.write_text(json.dumps({
            "title": "test", "model": "is/not/here", "settings": ["--size", "96x96", "--frames", "9", "--steps", "6"],
            "prompts": [], "groups": [{"title": "g", "rows": [{"name": "dense"}]}]}))
        prompts.write_text("a red circle moves left on a black background\na fox in the snow\n")
        options = ("--table", table, "--work-dir", work, "-m", MODEL, "--prompt-file", prompts, "--size", "64x64")
        plan = self.bench("quality", *options, "--plan")
        self.assert_done(plan)
        for word in ("48 runs of the transformer", "216.0 KiB", "peak"):  # of 6 steps, 2 branches, reference and row; 9 x 64 x 64 x 3
            self.assertIn(word, plan.stdout.decode())
        self.assertFalse(work.exists())
        result = self.bench("quality", *options, "--steps", "2", "--json", self.folder / "other-out.json")
        self.assert_done(result)
        row = json.loads((self.folder / "other-out.json").read_text())["groups"][0]["rows"][0]
        self.assertEqual((row["clips"], row["psnr_db"]["mean"]), (2, 99))

    def test_velocities_that_could_not_be_compared_are_refused(self):
        for measure, flags, word in (("levels", ["--attention", "sparse"], "path"),
                                     ("path", ["--sampler", "euler"], "sampler")):
            result = self.velocity([{"title": "g", "measure": measure, "rows": [{"name": "row", "flags": flags}]}])
            self.assertNotEqual(result.returncode, 0)
            self.assertIn(word, result.stderr.decode().splitlines()[-1])
            quality = self.bench("quality", "--table", self.folder / "table.json", "--work-dir", self.folder / "clips")
            self.assertIn("velocity", quality.stderr.decode())

    def test_wrong_usage(self):
        empty = self.folder / "input-empty"
        empty.mkdir()
        for arguments in (("vae", "-m", MODEL, empty), ("table4", "--config", self.folder / "none"),
                          ("model", "--attention", "some"), ("model", "--plan", "--layers", "2")):
            result = self.bench(*arguments)
            self.assertNotEqual(result.returncode, 0, arguments)
            self.assertEqual(len(result.stderr.decode().strip().splitlines()), 1, arguments)


if __name__ == "__main__":
    unittest.main()
