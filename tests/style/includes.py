#!/usr/bin/env python3
"""Includes against the order of the layers (docs/architecture.md): includes.py [ROOT]

Every folder may include itself, what its line of RULES names, and the public headers it names. Which
library headers are for some folders only is in LIBRARIES.
"""
from __future__ import annotations

import re
import sys
from pathlib import Path

ALL_PUBLIC = "quantsparse/"
BELOW_PROGRAM = ["runtime/vulkan", "shaders"]
BELOW_KERNELS = [*BELOW_PROGRAM, "runtime/program"]
BELOW_ATTENTION = [*BELOW_KERNELS, "runtime/kernels"]
BELOW_MODELS = [*BELOW_ATTENTION, "runtime/attention", "runtime/format"]
BELOW_PIPELINE = [*BELOW_MODELS, "runtime/models", "runtime/sampling"]

# Folder: what it may include beside itself. A folder, or the beginning of a header's name.
RULES = {
    "runtime/include": [],
    "runtime/format": ["quantsparse/error.hpp", "quantsparse/model_files.hpp", "quantsparse/names.hpp", "quantsparse/sampler.hpp",
                       "quantsparse/version.hpp"],
    "runtime/sampling": ["quantsparse/error.hpp", "quantsparse/sampler.hpp"],
    "runtime/vulkan": ["shaders", ALL_PUBLIC],
    "runtime/program": [*BELOW_PROGRAM, ALL_PUBLIC],
    "runtime/kernels": [*BELOW_KERNELS, ALL_PUBLIC],
    "runtime/attention": [*BELOW_ATTENTION, ALL_PUBLIC],
    "runtime/models": [*BELOW_MODELS, ALL_PUBLIC],
    "runtime/pipeline": [*BELOW_PIPELINE, ALL_PUBLIC],
    "runtime": [ALL_PUBLIC],
    "runtime/c": ["quantsparse.h", ALL_PUBLIC],
    "calib": ["runtime/format", "runtime/sampling", "attention/band.hpp", "pipeline/adapters.hpp",
              "pipeline/recipes.hpp", "quantsparse/adapter.hpp", "quantsparse/error.hpp",
              "quantsparse/version.hpp"],
    "samples": [ALL_PUBLIC],
    "bench": [*BELOW_PIPELINE, "runtime/pipeline", "samples", ALL_PUBLIC],
}
# What the calibrator shares needs no other header of its folder.
BAND = ["attention/band.hpp", "quantsparse/attention.hpp"]
RECIPES = ["pipeline/recipes.hpp", "quantsparse/error.hpp"]
ADAPTERS = ["pipeline/adapters.hpp", "runtime/format", "quantsparse/adapter.hpp", *RECIPES]
STAND_ALONE = {"runtime/attention/band.hpp": BAND, "runtime/attention/band.cpp": BAND,
               "runtime/pipeline/adapters.hpp": ADAPTERS, "runtime/pipeline/adapters.cpp": ADAPTERS,
               "runtime/pipeline/recipes.hpp": RECIPES, "runtime/pipeline/recipes.cpp": RECIPES}

# Headers of libraries: the folders that may include them.
LIBRARIES = {
    r"vulkan/|shaderc/|spirv-tools/": ["runtime/vulkan", "runtime/program"],
    r"torch/|ATen/|c10/": ["calib"],
    r"sentencepiece": ["runtime/format"],
    r"CLI/": ["samples", "bench", "calib"],
}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def folder_of(path: str) -> str | None:
    """The rule that a file is under: the longest that fits."""
    fitting = [folder for folder in RULES if path.startswith(folder + "/")]
    return max(fitting, key=len, default=None)


def target_of(root: Path, path: Path, header: str) -> str:
    """The folder a quoted header belongs to; of public headers the name as written."""
    if header.startswith("quantsparse/") or header == "quantsparse.h":
        return header
    places = {"runtime": root / "runtime" / header, "": root / header, "own": path.parent / header,
              "bench": root / "bench" / header, "samples/video": root / "samples/video" / header}
    for place in places.values():
        if place.is_file():
            found = place.resolve().relative_to(root).as_posix()
            return folder_of(found) or found
    return f"unknown file {header}"


def offences_of(root: Path, path: Path) -> list[str]:
    name = path.relative_to(root).as_posix()
    folder = folder_of(name)
    if folder is None:
        return []
    allowed = STAND_ALONE.get(name, [folder, *RULES[folder]])
    if folder == "runtime/include":
        allowed = [ALL_PUBLIC]
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        quote, header = match.groups()
        if quote == "<" and header.startswith("shaders/"):
            target = "shaders"
        elif quote == "<":
            for library, users in LIBRARIES.items():
                if re.match(library, header) and folder not in users:
                    found.append(f"{name}:{number}: <{header}> is for {', '.join(users)} only")
            continue
        else:
            target = target_of(root, path, header)
        fits = any(target == rule or header == rule or (rule.endswith("/") and target.startswith(rule))
                   for rule in allowed)
        if not fits:
            found.append(f"{name}:{number}: {folder} must not include \"{header}\" ({target})")
    return found


def offences(root: Path) -> list[str]:
    files = [p for top in ("runtime", "calib", "samples", "bench") for p in (root / top).rglob("*.[ch]pp")]
    return [offence for path in sorted(files) for offence in offences_of(root, path)]


if __name__ == "__main__":
    found = offences(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve())
    print("\n".join(found) or "all includes keep to the order")
    sys.exit(bool(found))
