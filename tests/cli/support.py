"""What the tests of the executables share: running them, and what every failure must look like."""
from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import tempfile
import unittest
from pathlib import Path

BIN = Path(os.environ["QUANTSPARSE_BIN"])
MODEL = Path(os.environ["QUANTSPARSE_MODEL"])
VIDEO = BIN / "quantsparse-video"
CALIBRATE = BIN / "quantsparse-calibrate"
COMPARE = BIN / "quantsparse-compare"
PROMPT = "a red circle moves left on a black background"

# The smallest clip the bundled model makes: seconds on two cores.
SMALL = ["--size", "48x32", "--frames", "5", "--steps", "2", "--guidance-scale", "1"]


class CliTest(unittest.TestCase):
    """Each test runs in an empty folder of its own, self.folder."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="quantsparse-cli-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def run_tool(self, tool: Path, *arguments, timeout: float = 300, **options):
        return subprocess.run([tool, *arguments], cwd=self.folder, capture_output=True,
                              timeout=timeout, stdin=subprocess.DEVNULL, **options)

    def video(self, *arguments, **options):
        return self.run_tool(VIDEO, *arguments, **options)

    def assert_done(self, result) -> str:
        """Exit 0; returns what was printed on standard error."""
        errors = result.stderr.decode(errors="replace")
        self.assertEqual(result.returncode, 0, errors)
        return errors

    def assert_refused(self, result, code: int, *words: str) -> None:
        """Exit `code`, one clear line with all the words, and no file left."""
        errors = result.stderr.decode(errors="replace")
        self.assertEqual(result.returncode, code, errors)
        lines = [line for line in errors.splitlines() if line.strip()]
        self.assertEqual(len(lines), 1, f"not one line: {errors}")
        for word in words:
            self.assertIn(word.lower(), lines[0].lower())
        self.assertEqual(result.stdout, b"")
        self.assert_no_output()

    def assert_no_output(self) -> None:
        left = [p.name for p in self.folder.iterdir() if not p.name.startswith("input")]
        self.assertEqual(left, [], "files were left behind")


def read_safetensors(path: Path) -> tuple[dict, bytes]:
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8:8 + length]), raw[8 + length:]


def write_safetensors(path: Path, header: dict, data: bytes) -> None:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_lora(path: Path, tensors: dict[str, tuple[list[int], list[float]]],
               metadata: dict[str, str] | None = None) -> None:
    """Shapes and values by name, in F32."""
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, (shape, values) in tensors.items():
        piece = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape,
                        "data_offsets": [len(data), len(data) + len(piece)]}
        data += piece
    write_safetensors(path, header, data)


def copy_model(folder: Path) -> Path:
    """A copy of the bundled model that a test may damage; returns the transformer's file."""
    copy = folder / "input-model"
    shutil.copytree(MODEL, copy)
    return next((copy / "transformer").glob("*.safetensors"))


def have(program: str) -> bool:
    return shutil.which(program) is not None
