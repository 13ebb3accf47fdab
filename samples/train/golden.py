"""Compares the networks with recorded cases of the published architecture: python3 golden.py DIR."""
from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

import stfile
from config import DitConfig, TextConfig, VaeConfig
from nets.dit import Dit
from nets.text import TextEncoder
from nets.vae import Vae


def weights(folder: Path) -> dict[str, Tensor]:
    """All shards of the folder, widened to float32."""
    out: dict[str, Tensor] = {}
    for f in sorted(folder.glob("model*.safetensors")):
        out.update({k: v.float() for k, v in stfile.read(f).items()})
    return out


def pairs(folder: Path, case: dict) -> list[tuple[str, Tensor, Tensor]]:
    """(name, value, expected value) of every output of a case."""
    c, io, out = case["config"], stfile.read(folder / "io.safetensors"), []
    runs = [r["id"] for r in case["runs"]]
    if case["kind"] == "wan-dit":
        dit = Dit(DitConfig(**{k: c[k] for k in ("in_dim", "out_dim", "dim", "ffn_dim", "num_heads", "num_layers",
                                                 "text_dim", "freq_dim", "text_len", "eps")}))
        dit.load_state_dict(weights(folder))
        for r in runs:
            a, t, x = (io[f"{r}.in.{n}"] for n in ("latent", "timestep", "context"))
            out.append((r, dit(a[None], t, x[None])[0], io[f"{r}.out.velocity"]))
    elif case["kind"] == "umt5-encoder":
        net = TextEncoder(TextConfig(c.get("vocab_size", c.get("vocab")), c["dim"], c["dim_attn"], c["dim_ffn"],
                                     c["num_heads"], c["num_layers"], c["num_buckets"]))
        net.load_state_dict(weights(folder))
        for r in runs:
            n = int(io[f"{r}.in.mask"].sum())
            y = net(io[f"{r}.in.ids"][None].long(), torch.tensor([n]))[0, :n]
            out.append((r, y, io[f"{r}.out.context"]))
    else:
        vae = Vae(VaeConfig(c["dim"], c["z_dim"], tuple(c["dim_mult"]), c["num_res_blocks"],
                            tuple(c["temperal_downsample"])))
        vae.load_state_dict(weights(folder))
        mean, std = (torch.tensor(case[k]).reshape(1, -1, 1, 1, 1) for k in ("latents_mean", "latents_std"))
        for r in runs:
            if f"{r}.in.video" in io:
                x = io[f"{r}.in.video"][None]
                x = x[:, :, :1 + (x.shape[2] - 1) // 4 * 4]
                out.append((r, ((vae.encode(x)[0] - mean) / std)[0], io[f"{r}.out.latent"]))
            else:
                y = vae.decode(io[f"{r}.in.latent"][None] * std + mean)[0]
                out.append((r, y, io[f"{r}.out.video_unclamped"]))
    return out


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: golden.py DIR (a folder of wan-dit-*, umt5-* and wan-vae-* cases)", file=sys.stderr)
        return 2
    bad = 0
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        if not folder.name.startswith(("wan-dit", "umt5", "wan-vae")):
            continue
        case = json.loads((folder / "case.json").read_text())
        limit = case["tolerance"]["fp32"]
        with torch.no_grad():
            for name, a, b in pairs(folder, case):
                rel, top = ((a - b).norm() / b.norm()).item(), (a - b).abs().max().item()
                ok = rel <= limit["rel_l2"] and top <= limit["max_abs"]
                bad += not ok
                print(f"{'ok  ' if ok else 'FAIL'} {folder.name} {name} rel_l2 {rel:.1e} max_abs {top:.1e}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
