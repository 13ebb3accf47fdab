"""Checkpoints that survive a kill at any moment, and CSV logs."""
from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import torch


def save(state: Any, path: Path) -> None:
    """Writes to a temporary file beside the target, then renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(temp, "wb") as f:
        torch.save(state, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temp, path)


def load(path: Path) -> Any | None:
    """The saved state, on the CPU, or None when there is none yet."""
    return torch.load(path, map_location="cpu", weights_only=False) if path.exists() else None


class CsvLog:
    """Appends rows to a CSV file; the header is written once."""

    def __init__(self, path: Path, columns: list[str]) -> None:
        self.path, self.columns = path, columns
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with open(path, "w", newline="") as f:
                csv.writer(f).writerow(columns)

    def row(self, *values: Any) -> None:
        with open(self.path, "a", newline="") as f:
            csv.writer(f).writerow([f"{v:.5g}" if isinstance(v, float) else v for v in values])
        print(" ".join(f"{c}={v:.4g}" if isinstance(v, float) else f"{c}={v}" for c, v in zip(self.columns, values)),
              flush=True)
