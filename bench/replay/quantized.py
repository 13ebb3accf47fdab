"""Runs the linears of a quantised model file in PyTorch with the runtime's arithmetic: rows transformed, rounded to
integers, multiplied with the stored codes, scaled."""
from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

_NUMPY = {"F32": np.float32, "F16": np.float16, "U32": np.uint32, "U8": np.uint8}


class ModelFile:
    """Tensors by name, read when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as f:
            length = struct.unpack("<Q", f.read(8))[0]
            self.header = json.loads(f.read(length))
        self.base = 8 + length
        self.quantization = json.loads(self.header.pop("__metadata__")["quantization"])

    def __contains__(self, name: str) -> bool:
        return name in self.header

    def array(self, name: str) -> np.ndarray:
        entry = self.header[name]
        a, b = entry["data_offsets"]
        with open(self.path, "rb") as f:
            f.seek(self.base + a)
            raw = f.read(b - a)
        return np.frombuffer(raw, _NUMPY[entry["dtype"]]).reshape(entry["shape"])


def unpack(words: np.ndarray, bits: int, n: int, k: int) -> np.ndarray:
    """Signed codes [n, k] of packed words (docs/model-format.md)."""
    def four(w: np.ndarray) -> np.ndarray:  # [rows, n] words -> [rows, n, 4] bytes
        return np.ascontiguousarray(w).view(np.uint8).reshape(*w.shape, 4)

    if bits == 8:
        codes = four(words).view(np.int8).astype(np.int32)
        return codes.transpose(1, 0, 2).reshape(words.shape[1], -1)[:n, :k]
    rows = (k + 31) // 32 * 4
    low, high = four(words[:rows] & 0x0F0F0F0F), four((words[:rows] >> 4) & 0x0F0F0F0F)
    codes = np.concatenate([low, high], axis=2).astype(np.int32)
    if bits == 6:
        plane = np.repeat(words[rows:], 2, axis=0) >> (4 * (np.arange(rows) % 2)[:, None]).astype(np.uint32)
        codes += 16 * np.concatenate([four(plane & 0x03030303), four((plane >> 2) & 0x03030303)], axis=2).astype(np.int32)
    return codes.transpose(1, 0, 2).reshape(words.shape[1], -1)[:n, :k] - (1 << (bits - 1))


def hadamard(x: Tensor, block: int) -> Tensor:
    """Sylvester Hadamard over sqrt(block) on blocks of the last axis."""
    shape = x.shape
    x = x.reshape(-1, block)
    half = 1
    while half < block:
        y = x.reshape(x.shape[0], -1, 2, half)
        x = torch.stack([y[:, :, 0] + y[:, :, 1], y[:, :, 0] - y[:, :, 1]], dim=2).reshape(-1, block)
        half *= 2
    return (x / block ** 0.5).reshape(shape)


class QuantizedLinear(nn.Module):
    def __init__(self, file: ModelFile, name: str, shared: str) -> None:
        """`shared` holds what linears of one input have once: the learned rotation and the clipping."""
        super().__init__()
        q = file.quantization
        self.qmax = 2 ** (q["activation_bits"] - 1) - 1
        scale = file.array(name + ".scale")
        tensor = lambda part: torch.from_numpy(file.array(name + part).astype(np.float32))
        self.k = file.array(name + ".channel_scale").shape[0] if name + ".channel_scale" in file else q.get("k", 0)
        self.codes = torch.from_numpy(unpack(file.array(name + ".codes"), q["weight_bits"], len(scale),
                                             self.k).astype(np.float32))
        self.scale, self.bias = torch.from_numpy(scale.copy()), tensor(".bias")
        self.inverse_channel_scale = 1 / tensor(".channel_scale")
        self.signs = tensor(".rotation_signs") if name + ".rotation_signs" in file else None
        of_input = lambda part: torch.from_numpy(file.array(shared + part).astype(np.float32))
        self.rotation = of_input(".rotation") if shared + ".rotation" in file else None  # [K / b, b, b]
        self.clip = float(of_input(".activation_clip")) if shared + ".activation_clip" in file else 1.0

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.inverse_channel_scale
        if self.rotation is not None:
            blocks, size, _ = self.rotation.shape
            x = torch.einsum("...nb,nbc->...nc", x.reshape(*x.shape[:-1], blocks, size), self.rotation)
            x = x.flatten(-2)
        elif self.signs is not None:
            block = 128
            while self.k % block:
                block //= 2
            x = hadamard(x * self.signs, block)
        s = x.abs().amax(dim=-1, keepdim=True) * (self.clip / self.qmax)
        s = torch.where(s > 0, s, torch.ones_like(s))
        codes = (x / s).round().clamp(-self.qmax, self.qmax)
        return s * self.scale * (codes @ self.codes.t()) + self.bias


def quantize_dit(dit: nn.Module, path: Path) -> nn.Module:
    """Replaces the ten linears of each block by those of the model file."""
    file = ModelFile(path)
    for i, block in enumerate(dit.blocks):
        for part in ("self_attn", "cross_attn"):
            for linear in "qkvo":
                name = f"transformer.blocks.{i}.{part}."
                alone = linear == "o" or (part == "cross_attn" and linear == "q")
                first = linear if alone else "q" if part == "self_attn" else "k"
                setattr(getattr(block, part), linear, QuantizedLinear(file, name + linear, name + first))
        for index in (0, 2):
            name = f"transformer.blocks.{i}.ffn.{index}"
            block.ffn[index] = QuantizedLinear(file, name, name)
    return dit
