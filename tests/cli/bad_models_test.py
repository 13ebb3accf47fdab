"""Models that can't be trusted: exit 1, one line that names the file's fault, nothing written."""
from __future__ import annotations

import json
import struct
import unittest
from pathlib import Path

from support import PROMPT, SMALL, CliTest, copy_model, read_safetensors, write_safetensors


class BadModels(CliTest):
    def refused(self, model: Path, *words: str) -> None:
        result = self.video("-m", model, "-p", PROMPT, "-o", "a.mp4", *SMALL)
        self.assert_refused(result, 1, *words)

    def damaged(self) -> tuple[Path, dict, bytes, str]:
        """The transformer's file, its header and data, and the name of one of its matrices."""
        path = copy_model(self.folder)
        header, data = read_safetensors(path)
        name = next(n for n, t in sorted(header.items())
                    if "shape" in t and len(t["shape"]) == 2 and t["shape"][0] != t["shape"][1])
        return path, header, data, name

    def test_no_such_model(self) -> None:
        self.refused(self.folder / "input-nowhere", "input-nowhere")

    def test_empty_folder(self) -> None:
        (self.folder / "input-empty").mkdir()
        self.refused(self.folder / "input-empty", "input-empty")

    def test_not_a_model(self) -> None:
        (self.folder / "input.safetensors").write_bytes(b"\x89PNG not a model at all")
        self.refused(self.folder / "input.safetensors", "input.safetensors")
        (self.folder / "input.safetensors").write_bytes(b"")
        self.refused(self.folder / "input.safetensors", "input.safetensors")

    def test_truncated_file(self) -> None:
        path, *_ = self.damaged()
        path.write_bytes(path.read_bytes()[:-100])
        self.refused(path.parent.parent, path.name)

    def test_header_longer_than_the_file(self) -> None:
        path, *_ = self.damaged()
        raw = path.read_bytes()
        for length in (len(raw), 1 << 40, (1 << 64) - 1):
            path.write_bytes(struct.pack("<Q", length) + raw[8:])
            self.refused(path.parent.parent, path.name)

    def test_header_that_is_no_json(self) -> None:
        path, *_ = self.damaged()
        raw = path.read_bytes()
        path.write_bytes(raw[:8] + b"}" + raw[9:])
        self.refused(path.parent.parent, path.name)

    def test_overlapping_tensors(self) -> None:
        path, header, data, name = self.damaged()
        begin, end = header[name]["data_offsets"]
        other = next(n for n, t in header.items()
                     if n not in (name, "__metadata__") and
                     t["data_offsets"][1] - t["data_offsets"][0] <= end - begin)
        size = header[other]["data_offsets"][1] - header[other]["data_offsets"][0]
        header[other]["data_offsets"] = [begin, begin + size]
        write_safetensors(path, header, data)
        self.refused(path.parent.parent, path.name)

    def test_offsets_past_the_end(self) -> None:
        path, header, data, name = self.damaged()
        begin, end = header[name]["data_offsets"]
        header[name]["data_offsets"] = [begin + len(data), end + len(data)]
        write_safetensors(path, header, data)
        self.refused(path.parent.parent, path.name, name)

    def test_wrong_dtype(self) -> None:
        for dtype in ("I16", "NONSENSE"):
            with self.subTest(dtype=dtype):
                path, header, data, name = self.damaged()
                header[name]["dtype"] = dtype
                write_safetensors(path, header, data)
                self.refused(path.parent.parent, path.name)
                self.setUp()

    def test_missing_tensor(self) -> None:
        path, header, data, name = self.damaged()
        del header[name]
        packed, kept = b"", {}
        for key, tensor in header.items():
            if key == "__metadata__":
                kept[key] = tensor
                continue
            begin, end = tensor["data_offsets"]
            kept[key] = {**tensor, "data_offsets": [len(packed), len(packed) + end - begin]}
            packed += data[begin:end]
        write_safetensors(path, kept, packed)
        self.refused(path.parent.parent, "lacks", name.split(".")[0])

    def test_values_that_are_not_finite_name_the_block(self) -> None:
        path, header, data, _ = self.damaged()
        name = next(n for n in sorted(header) if n.endswith("to_out.0.bias") and
                    n.startswith("blocks.2.attn1"))
        begin = header[name]["data_offsets"][0]
        nan = {"F32": struct.pack("<f", float("nan")), "F16": struct.pack("<e", float("nan")),
               "BF16": b"\xc0\x7f"}[header[name]["dtype"]]
        write_safetensors(path, header, data[:begin] + nan + data[begin + len(nan):])
        for extra in ([], ["--attention", "sparse", "--steps", "6"]):
            result = self.video("-m", path.parent.parent, "-p", PROMPT, "-o", "a.mp4", *SMALL, *extra,
                                "--progress", "none")
            self.assert_refused(result, 1, "step 1", "block 2, after self-attention", "NaN")

    def test_shape_mismatch(self) -> None:
        path, header, data, name = self.damaged()
        header[name]["shape"].reverse()
        write_safetensors(path, header, data)
        self.refused(path.parent.parent, "shape")

    def test_unknown_architecture(self) -> None:
        copy_model(self.folder)
        index = self.folder / "input-model/model_index.json"
        index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": "FluxPipeline"}))
        self.refused(self.folder / "input-model", "FluxPipeline")
        write_safetensors(self.folder / "input.safetensors", {"__metadata__": {
            "format": "quantsparse", "version": "1", "architecture": "sora", "config": "{}",
            "quantization": "{}"}}, b"")
        self.refused(self.folder / "input.safetensors", "sora")

    def test_newer_version(self) -> None:
        write_safetensors(self.folder / "input.safetensors", {"__metadata__": {
            "format": "quantsparse", "version": "999", "architecture": "wan2.1-t2v",
            "config": "{}", "quantization": "{}"}}, b"")
        self.refused(self.folder / "input.safetensors", "999", "version")

    def test_broken_tokenizer(self) -> None:
        copy_model(self.folder)
        (self.folder / "input-model/tokenizer/spiece.model").write_bytes(b"no vocabulary")
        self.refused(self.folder / "input-model", "tokenizer")

    def test_broken_config(self) -> None:
        copy_model(self.folder)
        config = self.folder / "input-model/transformer/config.json"
        for text in ("{", '{"num_layers": "six"}', '{"num_layers": -1, "num_attention_heads": 0}'):
            with self.subTest(text=text):
                config.write_text(text)
                self.refused(self.folder / "input-model", "config.json")

    def test_the_untouched_copy_is_fine(self) -> None:
        """Guards the tests above: what they refuse is the damage, not the copy."""
        copy_model(self.folder)
        self.assert_done(self.video("-m", "input-model", "--plan"))


if __name__ == "__main__":
    unittest.main()
