"""The files of the project and their text, as the tests of the documents read them."""
from __future__ import annotations

import bisect
import re
from pathlib import Path
from typing import Iterator

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("bench", "calib", "docs", "runtime", "samples", "shaders", "tests")
SUFFIXES = {".c", ".cmake", ".comp", ".cpp", ".glsl", ".h", ".hpp", ".md", ".py", ".sh", ".txt"}
# A line's end, with what begins a comment or a quotation on the next one.
BREAK = re.compile(r"[ \t]*\n[ \t]*(?:///?<?|#+|>)?[ \t]*")


def files(root: Path, suffixes: set[str] = SUFFIXES) -> Iterator[Path]:
    """What people write: sources, scripts and documents; not results, data or these tests."""
    for path in sorted(root.glob("*")):
        if path.is_file() and path.suffix in suffixes:
            yield path
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in suffixes and path.is_file() and path.parent != root / "tests/docs":
                yield path


class Lines:
    """A text as one line, so that a phrase is found where it is broken, and where it stood."""

    def __init__(self, text: str) -> None:
        pieces, self._starts, length, end = [], [0], 0, 0
        self._lines = [1]
        for match in BREAK.finditer(text):
            pieces.append(text[end:match.start()] + " ")
            length += len(pieces[-1])
            end = match.end()
            self._starts.append(length)
            self._lines.append(self._lines[-1] + match.group().count("\n"))
        pieces.append(text[end:])
        self.text = "".join(pieces)

    def line_of(self, offset: int) -> int:
        return self._lines[bisect.bisect_right(self._starts, offset) - 1]
