"""What comments and documents cite exists: "wan fact 7" is item 7 of docs/networks/wan.md, "method 2.4" a section
or an item of docs/method.md."""
from __future__ import annotations

import re
import tempfile
import unittest
from pathlib import Path

from tree import ROOT, Lines, files

LIST = r"\d+(?:(?:, and |, | and | or | to | ?[-–] ?)\d+)*"
FACTS = re.compile(rf"(?:(?<![\w-])([A-Za-z][\w-]*) )?\b[Ff]acts? ({LIST})")
NUMBER = r"\d+\.\d+"
METHOD = re.compile(rf"(?<![\w-])method ((?:{NUMBER}|\d+)(?:(?:, and |, | and | or | to | ?[-–] ?){NUMBER})*)")
GONE = re.compile(r"\balgorithms? \d+\.\d+")


def numbers(text: str) -> list[int]:
    """ "1, 3-5 and 7" as 1, 3, 4, 5, 7."""
    found: list[int] = []
    for between, number in re.findall(r"(\D*)(\d+)", text):
        if re.search(r"to|[-–]", between):
            found.extend(range(found[-1] + 1, int(number)))
        found.append(int(number))
    return found


def sections(text: str) -> list[str]:
    """ "2.1, 4.1 to 4.3" as 2.1, 4.1, 4.2, 4.3; a range has one chapter."""
    found: list[str] = []
    for between, number in re.findall(r"([^\d.]*)(\d+(?:\.\d+)?)", text):
        if re.search(r"to|[-–]", between):
            chapter, first = found[-1].split(".")
            found.extend(f"{chapter}.{i}" for i in range(int(first) + 1, int(number.split(".")[1])))
        found.append(number)
    return found


def facts_of(root: Path) -> dict[str, list[int]]:
    """Items of each file of docs/networks."""
    return {
        path.stem: [int(n) for n in re.findall(r"^(\d+)\. ", path.read_text(), re.M)]
        for path in sorted((root / "docs/networks").glob("*.md")) if path.stem != "README"
    }


def method_of(root: Path) -> list[str]:
    """Chapters, sections and numbered items of docs/method.md."""
    text = (root / "docs/method.md").read_text()
    headings = re.findall(r"^#{2,3} (\d+(?:\.\d+)?)\b", text, re.M)
    return headings + re.findall(rf"^\| ({NUMBER}) \|", text, re.M)


def offences(root: Path) -> list[str]:
    facts, method = facts_of(root), method_of(root)
    found = []
    for path in files(root):
        lines = Lines(path.read_text(errors="replace"))

        def report(match: re.Match, what: str) -> None:
            found.append(f"{path.relative_to(root)}:{lines.line_of(match.start())}: {match.group()}: {what}")

        for match in FACTS.finditer(lines.text):
            name = match.group(1)
            if name not in facts:
                report(match, "of which network? write \"wan fact 7\", with the name of a file of docs/networks")
                continue
            missing = [n for n in numbers(match.group(2)) if n not in facts[name]]
            if missing:
                report(match, f"docs/networks/{name}.md has no item {missing[0]}")
        for match in METHOD.finditer(lines.text):
            missing = [n for n in sections(match.group(1)) if n not in method]
            if missing:
                report(match, f"docs/method.md has no section {missing[0]}")
        for match in GONE.finditer(lines.text):
            report(match, "write \"method 2.4\", the sections of docs/method.md")
    return found


class Citations(unittest.TestCase):
    def test_every_citation_resolves(self) -> None:
        self.assertEqual([], offences(ROOT))

    def test_numbers_are_given_once_and_rise(self) -> None:
        for name, items in facts_of(ROOT).items():
            with self.subTest(name=name):
                self.assertTrue(items)
                self.assertEqual(items, sorted(set(items)))
        method = method_of(ROOT)
        self.assertEqual(len(method), len(set(method)))

    def test_offences_are_found(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            for folder in ("docs/networks", "runtime", "shaders"):
                (root / folder).mkdir(parents=True)
            (root / "docs/networks/wan.md").write_text("# Wan\n\n1. One.\n2. Two.\n3. Three.\n")
            (root / "docs/networks/wan-i2v.md").write_text("1. One.\n")
            (root / "docs/method.md").write_text("## 2. Q\n### 2.1 F\n### 2.2 S\n\n| | |\n|---|---|\n| 10.4 | d |\n")
            (root / "runtime/good.cpp").write_text(
                "// wan fact 2; wan facts 1-3, wan facts 1,\n/// 2 and 3, wan-i2v fact 1. A matter of fact.\n"
                "// method 2, method 2.1 to 2.2, 10.4\n")
            self.assertEqual([], offences(root))
            (root / "runtime/bad.cpp").write_text(
                "// fact 1\n// the fact 1\n// wan fact 4\n// wan facts 2 to 4\n// wan-i2v fact 2\n// i2v fact 1\n")
            (root / "shaders/bad.comp").write_text("// method 2.3\n// (method\n// 3)\n// method 2.1, 2.4\n")
            (root / "docs/bad.md").write_text("As in algorithms 2.4.\n\nFacts 1 to\n2 are known.\n")
            where = [offence.split(": ")[0] for offence in offences(root)]
            self.assertEqual(
                where,
                ["docs/bad.md:3", "docs/bad.md:1"] + [f"runtime/bad.cpp:{i}" for i in range(1, 7)] +
                ["shaders/bad.comp:1", "shaders/bad.comp:2", "shaders/bad.comp:4"])


if __name__ == "__main__":
    unittest.main()
