"""png pictures without a library: reads the frames quantsparse-video writes, writes film strips."""
from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _paeth(left: int, up: int, corner: int) -> int:
    a, b, c = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
    return left if a <= b and a <= c else up if b <= c else corner


def _unfilter(kind: int, row: np.ndarray, above: np.ndarray) -> np.ndarray:
    """One row [W * 3] of uint8 from its filtered form and the row above it."""
    if kind == 0:
        return row
    if kind == 1:
        return np.cumsum(row.reshape(-1, 3), axis=0, dtype=np.uint8).reshape(-1)
    if kind == 2:
        return row + above
    out, up = row.tolist(), above.tolist()  # Python integers: the sums must not wrap
    for i, value in enumerate(out):
        left, corner = (out[i - 3], up[i - 3]) if i >= 3 else (0, 0)
        guess = (left + up[i]) // 2 if kind == 3 else _paeth(left, up[i], corner)
        out[i] = (value + guess) & 255
    return np.array(out, np.uint8)


def read_png(path: Path) -> np.ndarray:
    """[H, W, 3] uint8 of an RGB picture with 8 bits a channel, not interlaced; ValueError for any other file."""
    data = path.read_bytes()
    if not data.startswith(_SIGNATURE):
        raise ValueError(f"'{path}' is not a png picture")
    at, header, packed = len(_SIGNATURE), b"", b""
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + length]
        header = body if kind == b"IHDR" else header
        packed += body if kind == b"IDAT" else b""
        at += length + 12
    if len(header) != 13 or header[8:] != b"\x08\x02\x00\x00\x00":
        raise ValueError(f"'{path}' is not an RGB png picture with 8 bits a channel")
    width, height = struct.unpack(">II", header[:8])
    try:
        rows = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, 1 + width * 3)
    except (zlib.error, ValueError):
        raise ValueError(f"'{path}' is damaged: make it again") from None
    if rows[:, 0].max(initial=0) > 4:
        raise ValueError(f"'{path}' is damaged: make it again")
    out = np.zeros((height, width * 3), np.uint8)
    above = np.zeros(width * 3, np.uint8)
    for y in range(height):
        above = out[y] = _unfilter(int(rows[y, 0]), rows[y, 1:], above)
    return out.reshape(height, width, 3)


def read_frames(folder: Path) -> np.ndarray:
    """[F, H, W, 3] uint8 of the frame_NNNNN.png of a folder."""
    files = sorted(folder.glob("frame_*.png"))
    if not files:
        raise FileNotFoundError(f"no frames in '{folder}'")
    return np.stack([read_png(f) for f in files])


def write_png(path: Path, picture: np.ndarray) -> None:
    """picture [H, W, 3] uint8."""
    height, width, _ = picture.shape
    rows = np.zeros((height, 1 + width * 3), np.uint8)  # filter 2: the difference to the row above
    flat = picture.reshape(height, -1)
    rows[:, 0], rows[0, 1:], rows[1:, 1:] = 2, flat[0], flat[1:] - flat[:-1]
    out = _SIGNATURE
    for kind, body in ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
                       (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")):
        out += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(out)


def sheet(pictures: list[np.ndarray], columns: int = 2, gap: int = 6) -> np.ndarray:
    """Pictures of one size, row by row, on white."""
    h, w, _ = pictures[0].shape
    rows = -(-len(pictures) // columns)
    page = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        page[y:y + h, x:x + w] = picture
    return page


def film_strip(frames: np.ndarray, count: int = 6, shrink: int = 2) -> np.ndarray:
    """`count` evenly spaced frames of [F, H, W, 3] uint8 side by side, each made `shrink` times smaller."""
    _, h, w, _ = frames.shape
    h, w = h // shrink * shrink, w // shrink * shrink
    picked = frames[np.linspace(0, len(frames) - 1, count).round().astype(int), :h, :w].astype(np.float32)
    small = picked.reshape(count, h // shrink, shrink, w // shrink, shrink, 3).mean(axis=(2, 4))
    return np.concatenate(list((small + 0.5).astype(np.uint8)), axis=1)
