"""Reads and writes safetensors files: 8-byte little-endian header length, JSON header padded with spaces, raw data."""
from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_DTYPES = {"F64": (torch.float64, 8), "F32": (torch.float32, 4), "F16": (torch.float16, 2), "BF16": (torch.bfloat16, 2),
           "I64": (torch.int64, 8), "I32": (torch.int32, 4), "I8": (torch.int8, 1), "U8": (torch.uint8, 1)}
_NAMES = {d: n for n, (d, _) in _DTYPES.items()}


def write(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes tensors in name order; every one starts at a multiple of its element size."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    offset = 0
    for name in sorted(tensors):
        t = tensors[name]
        size = t.numel() * t.element_size()
        header[name] = {"dtype": _NAMES[t.dtype], "shape": list(t.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temp = path.with_name(path.name + ".tmp")
    with open(temp, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            t = tensors[name].detach().cpu().contiguous()
            f.write((t.view(torch.int16) if t.dtype == torch.bfloat16 else t).numpy().tobytes())
    os.replace(temp, path)


def metadata(path: Path) -> dict[str, str]:
    """What the header says beside the tensors."""
    with open(path, "rb") as f:
        return json.loads(f.read(struct.unpack("<Q", f.read(8))[0])).get("__metadata__", {})


def read(path: Path) -> dict[str, Tensor]:
    """All tensors of one file."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + length])
    out: dict[str, Tensor] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, _ = _DTYPES[entry["dtype"]]
        a, b = (8 + length + v for v in entry["data_offsets"])
        if a == b:
            out[name] = torch.empty(entry["shape"], dtype=dtype)
        else:
            data = np.frombuffer(raw[a:b], np.uint8).copy()
            out[name] = torch.from_numpy(data).view(dtype).reshape(entry["shape"])
    return out
