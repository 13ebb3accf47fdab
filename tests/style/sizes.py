#!/usr/bin/env python3
"""Sizes: sizes.py [ROOT]. No function over 100 lines, at most five over 80; no file over 500 lines."""
from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

LONGEST_FILE = 500
LONGEST_FUNCTION = 100
LONG_FUNCTION = 80
LONG_FUNCTIONS = 5

FOLDERS = ("runtime", "shaders", "calib", "samples", "bench", "tests")
SUFFIXES = {".cpp", ".hpp", ".comp", ".glsl", ".py", ".sh", ".txt"}

TOKENS = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(?P<tag>[^(\s]*)\(.*?\)(?P=tag)"|"(?:\\.|[^"\\\n])*"'
    r"|(?<![0-9a-zA-Z])'(?:\\.|[^'\\\n])+'|^[ \t]*#(?:\\\n|[^\n])*", re.S | re.M)
NOT_FUNCTIONS = re.compile(r"\s*(?:template\s*<.*>\s*)?(?:inline\s+)?(?:namespace|class|struct|union|enum)\b|\s*extern\s*$", re.S)
PARAMETERS = re.compile(r"\)\s*(?:const|noexcept|override|final|mutable|&&?|->[^{};]*|requires[^{};]*)*\s*$")


def without_text(source: str) -> str:
    """Comments, literals and preprocessor lines blanked, line by line."""
    return TOKENS.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), source)


def cpp_functions(source: str) -> list[tuple[int, int, str]]:
    """First line, number of lines and name of each function; what it nests (lambdas) is part of it."""
    code = without_text(source)
    found = []
    stack = []  # of open braces: (is_function, where its head begins, the head)
    head, depth = 0, 0  # where the current head begins; how many functions are open
    for match in re.finditer(r"[{};]|\b(?:public|private|protected)\s*:(?!:)", code):
        mark, at = match.group(), match.start()
        text = code[head:at]
        if mark == "{":
            # Inside a function every brace is part of it; outside, a brace after a parameter list
            # (perhaps with initialisers behind it) opens one, any other opens a scope or a value.
            initialisers = re.search(r"\)\s*(?:noexcept\s*)?:(?!:)", text)
            is_value = initialisers and re.search(r"[\w>]\s*$", text)
            is_function = (depth == 0 and not is_value and not NOT_FUNCTIONS.match(text) and
                           (PARAMETERS.search(text) or initialisers) is not None and
                           not re.search(r"=\s*$", text))
            is_scope = NOT_FUNCTIONS.match(text) is not None
            stack.append((is_function, is_scope, head, text))
            depth += is_function
            if is_function or is_scope or depth:
                head = match.end()
        elif mark == "}" and stack:
            is_function, is_scope, began, text = stack.pop()
            if is_function:
                depth -= 1
                first = code.count("\n", 0, began + len(text) - len(text.lstrip())) + 1
                last = code.count("\n", 0, at) + 1
                name = re.search(r"([\w:~]+|operator\W+)\s*\(", text)
                found.append((first, last - first + 1, name.group(1) if name else "?"))
            if is_function or is_scope or depth:
                head = match.end()  # otherwise it was a value inside a head that goes on
        elif mark != "}":
            head = match.end()
    return found


def python_functions(source: str) -> list[tuple[int, int, str]]:
    return [(node.lineno, node.end_lineno - node.lineno + 1, node.name) for node in ast.walk(ast.parse(source))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def offences(root: Path) -> list[str]:
    found, long_ones = [], []
    for path in sorted(p for folder in FOLDERS for p in (root / folder).rglob("*")
                       if p.suffix in SUFFIXES and p.is_file() and "data" not in p.parts):
        source = path.read_text()
        name = path.relative_to(root).as_posix()
        lines = source.count("\n")
        if lines > LONGEST_FILE:
            found.append(f"{name}: {lines} lines, at most {LONGEST_FILE} are allowed")
        functions = {".cpp": cpp_functions, ".hpp": cpp_functions, ".py": python_functions}.get(path.suffix)
        for first, length, function in functions(source) if functions else []:
            line = f"{name}:{first}: {function} has {length} lines"
            if length > LONGEST_FUNCTION:
                found.append(f"{line}, at most {LONGEST_FUNCTION} are allowed")
            elif length > LONG_FUNCTION:
                long_ones.append(line)
    if len(long_ones) > LONG_FUNCTIONS:
        found.append(f"{len(long_ones)} functions over {LONG_FUNCTION} lines, at most {LONG_FUNCTIONS} are allowed:")
        found += ["  " + line for line in long_ones]
    return found


if __name__ == "__main__":
    found = offences(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve())
    print("\n".join(found) or "no file and no function is too long")
    sys.exit(bool(found))
