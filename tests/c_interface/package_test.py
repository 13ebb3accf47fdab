"""Installs libquantsparse into an empty root and builds programs against what lies there: package_test.py BUILD ROOT

The interface is compared with runtime/c/abi.xml. After a change on purpose: package_test.py BUILD ROOT --write-abi
"""
from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

BUILD, ROOT = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
SAMPLES = ROOT / "samples/embed"
BUNDLED = ROOT / "samples/models/shapes-tiny"
PROMPT = "a red circle moves left on a black background"
STRICT = ["-Wall", "-Wextra", "-pedantic", "-Werror"]


def run(*command, **options) -> subprocess.CompletedProcess:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)


def short_model(folder: Path) -> Path:
    """The bundled model, of which nothing asked for is a clip of 9 frames of 96x96 in four steps."""
    folder.mkdir()
    for part in BUNDLED.iterdir():
        (folder / part.name).symlink_to(part)
    (folder / "model_index.json").unlink()
    index = json.loads((BUNDLED / "model_index.json").read_text())
    index |= {"native_width": 96, "native_height": 96, "native_frames": 9, "steps": 4}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def dump_interface(header: Path, out: Path) -> None:
    """Functions and types that programs see. Of a library of empty functions: ours has its own types behind the handles."""
    declared = re.findall(r"^QS_API ([^;]*);", header.read_text(), re.M)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "quantsparse.c").write_text(
            '#include "quantsparse.h"\n' + "\n".join(f"{function} {{ for (;;) {{}} }}" for function in declared))
        for command in (("cc", "-g", "-w", "-fPIC", "-shared", "-Wl,-soname,libquantsparse.so.0", f"-I{header.parent}",
                         "quantsparse.c", "-o", "library.so"),
                        ("abidw", "--no-corpus-path", "--no-comp-dir-path", "--no-show-locs", "--no-elf-needed",
                         "--out-file", out.resolve(), "library.so")):
            result = run(*command, cwd=folder)
            assert result.returncode == 0, result.stderr


class PackageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = Path(tempfile.mkdtemp(prefix="quantsparse-package-"))
        cls.root = cls.scratch / "root"
        for component in ("runtime", "development"):
            result = run("cmake", "--install", BUILD, "--prefix", cls.root, "--component", component)
            assert result.returncode == 0, result.stderr
        cls.model = short_model(cls.scratch / "model")
        cls.library = next(cls.root.glob("lib*/**/libquantsparse.so"))

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.scratch)

    def assert_done(self, result: subprocess.CompletedProcess):
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def environment(self) -> dict:
        return {**os.environ, "LD_LIBRARY_PATH": str(self.library.parent)}

    def test_only_the_c_interface_is_visible(self):
        names = run("nm", "-D", "--defined-only", self.library).stdout.split("\n")
        symbols = {line.split()[-1].split("@")[0] for line in names if line} - {"QUANTSPARSE_0"}
        self.assertTrue(symbols)
        self.assertFalse({s for s in symbols if not s.startswith("qs_")})
        header = (self.root / "include/quantsparse.h").read_text()
        self.assertEqual(symbols, set(re.findall(r"^QS_API [^;]*?\b(qs_\w+)\(", header, re.M)))

    @unittest.skipUnless(shutil.which("abidw"), "needs abigail-tools")
    def test_programs_of_before_run_with_this_library(self):
        now = self.scratch / "abi.xml"
        dump_interface(self.root / "include/quantsparse.h", now)
        difference = run("abidiff", ROOT / "runtime/c/abi.xml", now)
        self.assertEqual(difference.returncode, 0, difference.stdout + "\nif that is on purpose: --write-abi")

    def test_the_header_is_c99_and_cpp11(self):
        header = self.root / "include/quantsparse.h"
        for compiler, language in (("cc", ("-std=c99", "-x", "c")), ("c++", ("-std=c++11", "-x", "c++"))):
            self.assert_done(run(compiler, *language, *STRICT, "-fsyntax-only", header))

    def test_a_program_built_with_cmake(self):
        work = self.scratch / "cmake"
        self.assert_done(run("cmake", "-S", ROOT / "tests/c_interface/consumer", "-B", work, f"-DSOURCES={SAMPLES}",
                             f"-DCMAKE_PREFIX_PATH={self.root}", "-DCMAKE_BUILD_TYPE=Release"))
        self.assert_done(run("cmake", "--build", work))
        result = run(work / "frames", self.model, PROMPT)
        self.assert_done(result)
        self.assertRegex(result.stdout, r"^9 frames of 96x96; in the middle \d+ \d+ \d+\n$")
        missing = run(work / "frames", self.scratch / "none", PROMPT)
        self.assertEqual(missing.returncode, 1)
        self.assertEqual(len(missing.stderr.strip().splitlines()), 1, missing.stderr)

    def test_a_program_built_with_pkg_config(self):
        environment = {**self.environment(), "PKG_CONFIG_PATH": str(self.library.parent / "pkgconfig")}
        flags = run("pkg-config", "--cflags", "--libs", "quantsparse",
                    env=environment)
        self.assert_done(flags)
        program = self.scratch / "generate"
        self.assert_done(run("cc", "-std=c99", *STRICT, SAMPLES / "generate.c", *flags.stdout.split(), "-o", program))
        frames = self.scratch / "frames"
        frames.mkdir()
        usage = run(program, env=environment)
        self.assertEqual(usage.returncode, 2)
        result = run(program, self.model, PROMPT, frames, env=environment)
        self.assert_done(result)
        self.assertEqual(len(list(frames.glob("frame*.ppm"))), 9)
        self.assertEqual((frames / "frame000.ppm").stat().st_size, len("P6 96 96 255\n") + 3 * 96 * 96)

    def test_a_machine_without_vulkan_gets_a_clear_error(self):
        environment = {**self.environment(), "VK_DRIVER_FILES": "/nowhere.json", "VK_ICD_FILENAMES": "/nowhere.json"}
        program = self.scratch / "probe"
        source = self.scratch / "probe.c"
        source.write_text('#include <quantsparse.h>\n#include <stdio.h>\nint main(void) { qs_device* d; qs_error e; '
                          'qs_error_init(&e); int s = qs_device_open(NULL, &d, &e); puts(e.message); return s; }\n')
        self.assert_done(run("cc", source, f"-I{self.root}/include", f"-L{self.library.parent}", "-lquantsparse", "-o",
                             program))
        result = run(program, env=environment)
        self.assertEqual(result.returncode, 6, result.stdout)  # QS_DEVICE
        self.assertNotIn("libvulkan", run("readelf", "-d", self.library).stdout)


if __name__ == "__main__":
    if "--write-abi" in sys.argv:
        dump_interface(ROOT / "runtime/include/quantsparse.h", ROOT / "runtime/c/abi.xml")
        sys.exit()
    unittest.main(argv=sys.argv[:1])
