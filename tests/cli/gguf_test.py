"""Weights from GGUF files, and weights rounded to 8 bits while they are loaded."""
from __future__ import annotations

import struct
import unittest
from pathlib import Path

from support import COMPARE, MODEL, PROMPT, SMALL, CliTest, copy_model, read_safetensors

F32, F16, Q8_0, BF16 = 0, 1, 8, 30
TYPES = {"F32": (F32, 4), "F16": (F16, 2), "BF16": (BF16, 2)}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def to_q8(halves: bytes) -> bytes:
    """Blocks of 32: a scale as a half and 32 signed bytes."""
    blocks = []
    for start in range(0, len(halves), 64):
        values = struct.unpack("<32e", halves[start:start + 64])
        scale = struct.unpack("<e", struct.pack("<e", max(map(abs, values)) / 127))[0]
        codes = [max(-127, min(127, round(v / scale))) if scale else 0 for v in values]
        blocks.append(struct.pack("<e32b", scale, *codes))
    return b"".join(blocks)


def write_gguf(path: Path, header: dict, data: bytes, architecture: str | None,
               quantised: str = "nothing") -> None:
    """Tensors as they are; F16 matrices whose names hold `quantised` in Q8_0."""
    entries = values = b""
    header = {name: entry for name, entry in header.items() if name != "__metadata__"}
    for name, entry in header.items():
        kind, _ = TYPES[entry["dtype"]]
        begin, end = entry["data_offsets"]
        raw = data[begin:end]
        shape = entry["shape"]
        if quantised in name and kind == F16 and len(shape) == 2 and shape[1] % 32 == 0:
            kind, raw = Q8_0, to_q8(raw)
        while len(shape) > 1 and shape[0] == 1:  # as ggml does
            shape = shape[1:]
        entries += (text(name) + struct.pack("<I", len(shape)) +
                    b"".join(struct.pack("<Q", extent) for extent in reversed(shape)) +
                    struct.pack("<IQ", kind, len(values)))
        values += raw + b"\0" * (-len(raw) % 32)
    known = [] if architecture is None else [
        text("general.architecture") + struct.pack("<I", 8) + text(architecture)]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(header), len(known)) + b"".join(known) + entries
    path.write_bytes(head + b"\0" * (-len(head) % 32) + values)


class Gguf(CliTest):
    def clip(self, model: Path, output: str, *arguments: str) -> str:
        return self.assert_done(
            self.video("-m", model, "-p", PROMPT, *SMALL, "--progress", "none", "-o", output,
                       *arguments))

    def convert(self, architecture: str | None = "wan", quantised: str = "nothing") -> Path:
        """The bundled model with its transformer in a GGUF file; formats are told by content."""
        path = copy_model(self.folder)
        header, data = read_safetensors(path)
        write_gguf(path, header, data, architecture, quantised)
        return path

    def assert_alike(self, one: str, other: str, decibels: str) -> None:
        result = self.run_tool(COMPARE, one, other, "--min-psnr", decibels)
        self.assertEqual(result.returncode, 0, result.stdout)

    def test_same_weights_same_bits(self) -> None:
        self.clip(MODEL, "a.y4m", "--save-latents", "a.npy")
        path = self.convert()
        self.clip(path.parent.parent, "b.y4m", "--save-latents", "b.npy")
        self.assertEqual((self.folder / "a.npy").read_bytes(), (self.folder / "b.npy").read_bytes())

    def test_blocks_give_nearly_the_same_clip(self) -> None:
        self.clip(MODEL, "a/")
        self.clip(self.convert(quantised="blocks.0.").parent.parent, "b/")
        self.assert_alike("a", "b", "45")

    def test_weights_rounded_while_loading(self) -> None:
        self.clip(MODEL, "a/")
        for model, output in ((MODEL, "b/"), (self.convert().parent.parent, "c/")):
            told = self.clip(model, output, "--weights", "8")
            self.assertRegex(told, r"rounded to 8 bits: they differ by [0-9.]+ %")
            self.assert_alike("a", output, "40")
        self.assert_alike("b", "c", "90")

    def test_the_plan_has_the_rounded_weights(self) -> None:
        def weights(*arguments: str) -> float:
            result = self.video("-m", MODEL, *SMALL, "--plan", *arguments)
            self.assert_done(result)
            line = next(x for x in result.stdout.decode().splitlines() if x.startswith("dit "))
            return float(line.split()[1])
        self.assertLess(weights("--weights", "8"), 0.5 * weights())

    def test_refusals(self) -> None:
        self.assert_refused(self.video("-m", MODEL, "--plan", "--weights", "5"), 2, "--weights", "5")
        path = self.convert("flux")
        self.assert_refused(self.video("-m", path.parent.parent, "--plan"), 1, "flux", "wan")

    def test_cut_off_file(self) -> None:
        path = self.convert()
        path.write_bytes(path.read_bytes()[:-100])
        self.assert_refused(self.video("-m", path.parent.parent, "--plan"), 1, "tensor",
                            "end of the file")


if __name__ == "__main__":
    unittest.main()
