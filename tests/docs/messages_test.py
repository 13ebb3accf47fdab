"""What the documents quote is what the programs print. Two forms are checked:

- a table whose first header is `message`: each code span of the first column is part of a string of the sources;
  `…` stands for what differs from one time to the next
- a block fenced as ```message: its lines are made of strings of the sources
"""
from __future__ import annotations

import re
import tempfile
import unittest
from pathlib import Path

from tree import ROOT, files

LITERAL = r'"(?:[^"\\\n]|\\.)*"'
# Strings in a row are one; a conditional or a macro between them ends it.
STRINGS = re.compile(rf"{LITERAL}(?:\s*{LITERAL})*")
NO_STRING = re.compile(rf"({LITERAL})|'(?:[^'\\\n]|\\.)'|//[^\n]*|/\*.*?\*/", re.S)  # comments and characters
PLACEHOLDER = re.compile(r"\{[^{}]*\}")
SHORTEST = 8  # letters that a string must have to stand for a part of a line


def strings_of(source: str) -> list[str]:
    """Strings of a C++ source as they are printed, `…` for placeholders."""
    code = NO_STRING.sub(lambda match: match.group(1) or " ", source)
    found = []
    for match in STRINGS.finditer(code):
        text = "".join(literal[1:-1] for literal in re.findall(LITERAL, match.group()))
        text = text.replace('\\"', '"').replace("\\n", "\n").replace("\\\\", "\\")
        found.append(PLACEHOLDER.sub("…", text))
    return found


def all_strings(root: Path) -> list[str]:
    return [text for path in files(root, {".cpp", ".hpp"}) if "tests" not in path.relative_to(root).parts
            for text in strings_of(path.read_text())]


def pattern_of(text: str) -> re.Pattern:
    return re.compile(".{0,200}?".join(map(re.escape, text.split("…"))), re.S)


def quotes(text: str) -> list[tuple[int, str]]:
    """Line and text of each message that a table quotes."""
    found, in_table = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("|"):
            in_table = False
        elif re.match(r"\|\s*message\s*\|", line):
            in_table = True
        elif in_table:
            cell = re.split(r"(?<!\\)\|", line)[1]
            found += [(number, quote.replace("\\|", "|")) for quote in re.findall(r"`([^`]+)`", cell)]
    return found


def fenced(text: str) -> list[tuple[int, str]]:
    found, inside = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            inside = line.strip() == "```message"
        elif inside and line.strip():
            found.append((number, line.strip()))
    return found


def is_printed(line: str, strings: list[str]) -> bool:
    """Whether the line's words come from strings; what stands in quotes may be anything."""
    rest = re.sub(r"'[^']*'", "''", line)
    for text in sorted(strings, key=len, reverse=True):
        if len(re.sub(r"[…\s]", "", text)) >= SHORTEST:
            rest = pattern_of(text.strip()).sub(" ", rest)
    return not re.search(r"[A-Za-z]{3}", rest)


def offences(root: Path) -> list[str]:
    strings = all_strings(root)
    together = "\n".join(strings)
    found = []
    for path in files(root, {".md"}):
        text = path.read_text()
        for number, quote in quotes(text):
            if not pattern_of(quote).search(together):
                found.append(f"{path.relative_to(root)}:{number}: no program prints \"{quote}\"")
        for number, line in fenced(text):
            if not is_printed(line, strings):
                found.append(f"{path.relative_to(root)}:{number}: no program prints this line")
    return found


class Messages(unittest.TestCase):
    def test_every_message_is_printed(self) -> None:
        self.assertEqual([], offences(ROOT))

    def test_there_are_some(self) -> None:
        self.assertGreater(len(quotes((ROOT / "docs/troubleshooting.md").read_text())), 10)
        self.assertGreater(len(fenced((ROOT / "docs/calibration.md").read_text())), 1)

    def test_offences_are_found(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            for folder in ("docs", "runtime", "tests"):
                (root / folder).mkdir()
            (root / "runtime/a.cpp").write_text(
                'fail(fmt::format("no device \\"{}\\" is known, the "\n    "least that works is {:.1f}", x));\n'
                '// "only in a comment"\nconst char q = \'"\'; log("{} of {} steps were taken\\n", a, b);\n')
            (root / "tests/a.cpp").write_text('expect("only in a test");\n')
            (root / "docs/a.md").write_text(
                "| message | meaning |\n|---|---|\n"
                "| `known, the least that`, `device \"…\" is known` | `not checked` |\n"
                "| `no dragons`, `least that works` | |\n"
                "| `only in a comment` | |\n| `only in a test` | |\n\n"
                "| other | |\n|---|---|\n| `no dragons` | |\n\n"
                "```message\n3 of 4 steps were taken\n3 of 4 steps were skipped\n```\n\n```\nno dragons\n```\n")
            self.assertEqual([offence.split(": ")[0] for offence in offences(root)],
                             ["docs/a.md:4", "docs/a.md:5", "docs/a.md:6", "docs/a.md:14"])


if __name__ == "__main__":
    unittest.main()
