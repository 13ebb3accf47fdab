"""Memory after many clips, and two devices in two threads (nightly): endurance_test.py LIBRARY ROOT"""
from __future__ import annotations

import os
import sys
import threading
import unittest
from pathlib import Path

LIBRARY, ROOT = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
os.environ["QUANTSPARSE_LIBRARY"] = str(LIBRARY)
sys.path.insert(0, str(ROOT / "runtime/python"))

import numpy as np  # noqa: E402

import quantsparse  # noqa: E402

MODEL = ROOT / "samples/models/shapes-tiny"
PICTURE = {"width": 64, "height": 64, "frames": 1, "steps": 1, "guidance_scale": 1}
PROMPT = "a red circle moves left on a black background"


def resident_bytes() -> int:
    """Of this process; on CPU drivers the device's memory is part of it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class EnduranceTest(unittest.TestCase):
    def test_memory_is_flat_over_two_hundred_generations(self):
        with quantsparse.Generator(MODEL) as generator:
            marks = []
            for i in range(200):
                generator.generate(PROMPT, seed=i, **PICTURE)
                if i in (49, 199):
                    marks.append(resident_bytes())
        self.assertLess(marks[1] - marks[0], 4 << 20)

    def test_opening_and_closing_leaves_nothing(self):
        marks = []
        for i in range(30):
            with quantsparse.Generator(MODEL) as generator:
                generator.plan(PROMPT)
            if i in (9, 29):
                marks.append(resident_bytes())
        self.assertLess(marks[1] - marks[0], 8 << 20)

    def test_two_generators_in_two_threads_make_what_one_makes(self):
        made: dict[int, np.ndarray] = {}

        def work(seed: int) -> None:
            with quantsparse.Generator(MODEL) as generator:
                for _ in range(3):
                    made[seed] = generator.generate(PROMPT, seed=seed, **PICTURE)
        threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for seed in (1, 2):
            np.testing.assert_array_equal(made[seed], quantsparse.generate(MODEL, PROMPT, seed=seed, **PICTURE))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
