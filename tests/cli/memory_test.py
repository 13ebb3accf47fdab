"""--memory-limit: what is picked, that it changes no bit, and the least that works."""
from __future__ import annotations

import json
import re
import unittest

from support import MODEL, PROMPT, CliTest

MIB = 1 << 20
CLIP = ["--size", "48x32", "--frames", "9", "--steps", "5", "--guidance-scale", "4",
        "--progress", "none"]
SPARSE = ["--attention", "sparse", "--refresh-interval", "2", "--ssar"]


class Memory(CliTest):
    def plan(self, *arguments) -> dict:
        result = self.video("-m", MODEL, "--plan", "--json", *CLIP, *arguments)
        self.assert_done(result)
        return json.loads(result.stdout)

    def latents(self, name: str, *arguments) -> tuple[bytes, str]:
        result = self.video("-m", MODEL, "-p", PROMPT, *CLIP, "-o", "a.y4m", "--save-latents", name,
                            *arguments)
        errors = self.assert_done(result)
        lines = [line for line in errors.splitlines() if line.startswith("memory: ")]
        self.assertLessEqual(len(lines), 1, errors)
        return (self.folder / name).read_bytes(), lines[0] if lines else ""

    def same_bits_under_limits(self, *arguments) -> None:
        whole, said = self.latents("whole.npy", *arguments)
        self.assertEqual(said, "")
        plan = self.plan(*arguments)
        least = -(-plan["least_bytes"] // MIB)
        everything = -(-plan["peak_bytes"] // MIB)
        dit = next(s for s in plan["stages"] if s["stage"] == "dit")["total_bytes"]
        self.assertLess(least * MIB, dit, "nothing would be streamed: the test is no test")
        for limit in sorted({least, (least + dit // MIB) // 2}):
            limited, said = self.latents("limited.npy", *arguments, "--memory-limit", f"{limit}M")
            self.assertIn("streamed from host memory", said)
            self.assertIn(f"of {limit} MiB allowed", said)
            self.assertEqual(limited, whole, f"{limit} MiB changed the latents")
            tight = self.plan(*arguments, "--memory-limit", f"{limit}M")
            self.assertLessEqual(tight["peak_bytes"], limit * MIB)
            self.assertGreater(next(s["host_bytes"] for s in tight["stages"]
                                    if s["stage"] == "dit"), 0)
        ample, said = self.latents("ample.npy", *arguments, "--memory-limit", f"{everything}M")
        self.assertIn("dit all resident", said)
        self.assertEqual(ample, whole)

    def test_dense(self) -> None:
        self.same_bits_under_limits()

    def test_residuals_in_rows(self) -> None:
        self.same_bits_under_limits(*SPARSE, "second", "--residual", "half")

    def test_residuals_of_low_rank(self) -> None:
        self.same_bits_under_limits(*SPARSE, "svd", "--residual", "lowrank")

    def test_the_least_that_works_is_named_and_works(self) -> None:
        named = None
        for limit in ("1M", "18M"):
            result = self.video("-m", MODEL, "-p", PROMPT, *CLIP, "-o", "a.y4m",
                                "--memory-limit", limit)
            self.assert_refused(result, 1, "memory", "the least that works")
            match = re.search(rb"--memory-limit: .*the least that works is (\d+)M", result.stderr)
            self.assertIn(named, (None, int(match[1])))
            named = int(match[1])
        self.assert_refused(self.video("-m", MODEL, "-p", PROMPT, *CLIP, "-o", "a.y4m",
                                       "--memory-limit", f"{named - 1}M"), 1, f"{named}M")
        self.latents("least.npy", "--memory-limit", f"{named}M")

    def test_plan_says_what_is_picked(self) -> None:
        least = -(-self.plan()["least_bytes"] // MIB)
        table = self.video("-m", MODEL, "--plan", *CLIP, "--memory-limit", f"{least}M")
        self.assert_done(table)
        self.assertIn(b"streamed from host memory", table.stdout)
        self.assertIn(b"fits", table.stdout)
        for stage in self.plan("--memory-limit", f"{least}M")["stages"]:
            self.assertEqual(stage["peak_bytes"], stage["total_bytes"])


if __name__ == "__main__":
    unittest.main()
