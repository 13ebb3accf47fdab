#!/usr/bin/env python3
"""Sources as clang-format 14 (Debian 12's) would write them: layout.py [ROOT]

Other versions lay some lines out differently, so without that one the check is skipped (exit code 77).
"""
from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = "14"
SKIPPED = 77
FOLDERS = ("runtime", "calib", "samples", "bench", "tests")


def clang_format() -> str | None:
    for name in (f"clang-format-{VERSION}", "clang-format"):
        if program := shutil.which(name):
            version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
            if re.search(rf"version {VERSION}\.", version):
                return program
    return None


def offences(root: Path, program: str) -> list[str]:
    files = sorted(p for folder in FOLDERS for p in (root / folder).rglob("*.[ch]pp"))
    if not files:
        return []
    result = subprocess.run([program, "--dry-run", "--Werror", "--style=file", *files], cwd=root,
                            capture_output=True, text=True)
    found = re.findall(r"^(\S+?:\d+):\d+: error", result.stderr, re.M)
    if result.returncode and not found:
        found = [result.stderr.strip()]
    return [f"{line.removeprefix(str(root) + '/')}: clang-format -i changes this" for line in found]


if __name__ == "__main__":
    program = clang_format()
    if not program:
        print(f"skipped: there is no clang-format {VERSION}")
        sys.exit(SKIPPED)
    found = offences(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve(), program)
    print("\n".join(found) or "all files are as clang-format writes them")
    sys.exit(bool(found))
