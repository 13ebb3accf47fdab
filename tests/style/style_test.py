"""The checks of this folder find what they are for: each is given a tree with an offence planted in it."""
from __future__ import annotations

import shutil
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import includes  # noqa: E402
import layout  # noqa: E402
import sizes  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def function(name: str, lines: int) -> str:
    return f"int {name}(int x) {{\n" + "    if (x) { ++x; }\n" * (lines - 3) + "    return x;\n}\n"


class StyleTest(unittest.TestCase):
    def setUp(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="quantsparse-style-")).resolve()
        self.addCleanup(shutil.rmtree, self.root)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def test_includes_against_the_order(self) -> None:
        for header in ("runtime/vulkan/device.hpp", "runtime/pipeline/stages.hpp", "runtime/format/text.hpp",
                       "runtime/attention/block_mask.hpp", "runtime/attention/band.hpp", "calib/options.hpp",
                       "runtime/include/quantsparse/error.hpp", "samples/video/writer.hpp"):
            self.write(header, "")
        wrong = {"runtime/format/a.cpp": '"vulkan/device.hpp"', "runtime/sampling/b.cpp": '"format/text.hpp"',
                 "runtime/kernels/c.cpp": '"pipeline/stages.hpp"', "runtime/models/d.cpp": "<vulkan/vulkan_raii.hpp>",
                 "runtime/format/e.hpp": "<torch/torch.h>", "calib/f.cpp": '"vulkan/device.hpp"',
                 "calib/g.cpp": '"attention/block_mask.hpp"', "samples/video/h.cpp": '"pipeline/stages.hpp"',
                 "runtime/include/quantsparse/i.hpp": '"vulkan/device.hpp"', "bench/j.cpp": '"calib/options.hpp"',
                 "runtime/vulkan/k.cpp": '"nowhere.hpp"', "runtime/attention/band.cpp": '"kernels/attention.hpp"'}
        right = {"runtime/pipeline/l.cpp": '"format/text.hpp"', "calib/m.cpp": '"attention/band.hpp"',
                 "samples/video/n.cpp": '"writer.hpp"', "bench/o.cpp": '"pipeline/stages.hpp"',
                 "calib/p.cpp": "<ATen/ATen.h>", "runtime/format/q.cpp": '"quantsparse/error.hpp"'}
        for name, header in (wrong | right).items():
            self.write(name, f"#include {header}\n")
        found = includes.offences(self.root)
        self.assertEqual({line.split(":")[0] for line in found}, set(wrong), found)

    def test_long_functions_and_files(self) -> None:
        self.write("runtime/a.cpp", "namespace n {\n" + function("too_long", 101) + function("long_one", 100) + "}\n")
        self.write("calib/b.cpp", "struct S {\n    S() : a_(1), b_{2} {\n" + "        ++a_;\n" * 110 + "    }\n};\n")
        self.write("tests/c_test.cpp", "// line\n" * 501)
        self.write("tests/d_test.py", "def f():\n" + "    print()\n" * 101)
        found = sizes.offences(self.root)
        self.assertEqual([line.split(" ")[:2] for line in found],
                         [["calib/b.cpp:2:", "S"], ["runtime/a.cpp:2:", "too_long"], ["tests/c_test.cpp:", "501"],
                          ["tests/d_test.py:1:", "f"]], found)

    def test_too_many_long_functions(self) -> None:
        self.write("runtime/a.cpp", "".join(function(f"f{i}", 90) for i in range(5)))
        self.assertEqual(sizes.offences(self.root), [])
        self.write("runtime/b.cpp", function("sixth", 81))
        self.assertIn("6 functions", sizes.offences(self.root)[0])

    def test_what_is_not_a_function(self) -> None:
        self.write("runtime/a.cpp", 'const char* kText = "{ (";  // {\nconst int kTable[] = {\n' + "    1,\n" * 120 +
                   "};\nenum class E {\n" + "    a,\n" * 120 + '};\nextern "C" {\n' + "int g();\n" * 120 + "}\n")
        self.assertEqual(sizes.offences(self.root), [])

    @unittest.skipUnless(layout.clang_format(), "needs clang-format 14")
    def test_layout(self) -> None:
        shutil.copy(ROOT / ".clang-format", self.root)
        self.write("runtime/a.cpp", "int  f( ) {return 1;}\n")
        self.assertTrue(layout.offences(self.root, layout.clang_format()))
        self.write("runtime/a.cpp", "int f() {\n    return 1;\n}\n")
        self.assertEqual(layout.offences(self.root, layout.clang_format()), [])


if __name__ == "__main__":
    unittest.main()
