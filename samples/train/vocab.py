"""The caption vocabulary: a sentencepiece model with the special ids of UMT5 (0 padding, 1 end, 2 unknown)."""
from __future__ import annotations

import os
import struct
from pathlib import Path

import sentencepiece as spm

from captions import corpus
from config import EOS, PAD, TEXT_LEN, UNK

_WORD_SCORE = -3.0  # better than any two pieces of the trained part


def _piece(text: str, score: float) -> bytes:
    """One more entry of the model's list of pieces, in the protocol-buffer encoding: field 1 = {1: text, 2: score}."""
    raw = text.encode()
    body = b"\x0a" + bytes([len(raw)]) + raw + b"\x15" + struct.pack("<f", score)
    return b"\x0a" + bytes([len(body)]) + body


def train_vocab(path: Path) -> None:
    """Writes `path` (spiece.model) unless it is there.

    The trained part splits anything into short pieces; every word of the grammar is then added as one piece, which
    keeps captions short (a repeated field may be continued at the end of the file).
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = path.with_suffix(".tmp")
    sentences = corpus()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_prefix=str(prefix), vocab_size=80, model_type="unigram",
        hard_vocab_limit=False, pad_id=PAD, eos_id=EOS, unk_id=UNK, bos_id=-1, pad_piece="<pad>", eos_piece="</s>",
        unk_piece="<unk>", character_coverage=1.0, num_threads=1, minloglevel=2)
    made, listing = (prefix.with_name(prefix.name + e) for e in (".model", ".vocab"))
    listing.unlink()
    have = spm.SentencePieceProcessor(model_file=str(made))
    words = sorted({"\u2581" + w for s in sentences for w in s.split()})
    with open(made, "ab") as f:
        f.write(b"".join(_piece(w, _WORD_SCORE) for w in words if have.piece_to_id(w) == UNK))
    os.replace(made, path)


class Tokenizer:
    """Captions to ids [TEXT_LEN], ending with the end token, and the count of valid ones."""

    def __init__(self, path: Path) -> None:
        self.model = spm.SentencePieceProcessor(model_file=str(path))

    def size(self) -> int:
        return self.model.get_piece_size()

    def __call__(self, text: str) -> tuple[list[int], int]:
        ids = self.model.encode(text)[:TEXT_LEN - 1] + [EOS]
        return ids + [PAD] * (TEXT_LEN - len(ids)), len(ids)
