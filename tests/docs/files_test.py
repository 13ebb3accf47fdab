"""Documents name files that exist, bench/results/README.md names all of its folder's, and tables are whole."""
from __future__ import annotations

import re
import tempfile
import unittest
from pathlib import Path

from tree import ROOT, files

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PATH = re.compile(r"(?<![\w/(])((?:bench|calib|docs|runtime|samples|shaders|tests)/[\w./-]*[\w-]\.(?:cpp|hpp|py|sh|json|jsonl|md|glsl|comp|html|txt|png))\b")
CODE = re.compile(r"```.*?```", re.S)


def broken_tables(text: str) -> list[int]:
    """First lines of runs of rows that no reader shows as a table: without a line of dashes, or ragged."""
    found, run = [], []
    for number, line in enumerate(CODE.sub(lambda match: "\n" * match.group().count("\n"), text).splitlines() + [""], 1):
        if line.lstrip().startswith("|"):
            run.append(len(re.findall(r"(?<!\\)\|", line)))
            dashes = set(line.strip()) <= set("|-: ") and len(run) == 2 or len(run) > 2 and dashes
            continue
        if run and (len(run) < 2 or not dashes or len(set(run)) > 1):
            found.append(number - len(run))
        run = []
    return found


def offences(root: Path) -> list[str]:
    found = []
    for path in files(root, {".md"}):
        text = path.read_text()
        where = path.relative_to(root)
        found += [f"{where}:{number}: these rows are no table" for number in broken_tables(text)]
        for target in LINK.findall(CODE.sub("", text)):
            if "://" not in target and not (path.parent / target).exists():
                found.append(f"{where}: no file {target}")
        for target in PATH.findall(text):
            if not (root / target).exists():
                found.append(f"{where}: no file {target}")
    results = root / "bench/results"
    listed = set(re.findall(r"^\| `([^`]+)` \|", (results / "README.md").read_text(), re.M))
    there = {str(path.relative_to(results)) for path in results.rglob("*") if path.is_file()} - {"README.md"}
    found += [f"bench/results/README.md: no line for {name}" for name in sorted(there - listed)]
    found += [f"bench/results/README.md: no file {name}" for name in sorted(listed - there)]
    return found


class Files(unittest.TestCase):
    def test_every_file_exists(self) -> None:
        self.assertEqual([], offences(ROOT))

    def test_offences_are_found(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            (root / "docs").mkdir()
            (root / "bench/results").mkdir(parents=True)
            (root / "README.md").write_text("[a](docs/a.md) [b](docs/b.md#part) [c](https://c.d/e.md) `bench/c.py`\n")
            (root / "docs/a.md").write_text("| a |\n|---|\n| b |\n\n| c |\n\n| a | b |\n|---|---|\n| c |\n\n```\n| d\n```\n")
            (root / "bench/results/x.json").write_text("{}")
            (root / "bench/results/README.md").write_text("| `y.json` | |\n")
            self.assertEqual(offences(root), ["README.md: no file docs/b.md", "README.md: no file bench/c.py",
                                              "bench/results/README.md:1: these rows are no table",
                                              "docs/a.md:5: these rows are no table",
                                              "docs/a.md:7: these rows are no table",
                                              "bench/results/README.md: no line for x.json",
                                              "bench/results/README.md: no file y.json"])


if __name__ == "__main__":
    unittest.main()
