"""Stage 2: codes of many clips, in shards, with the cells that the shape touches and the scene each clip shows."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from config import Geometry, VaeConfig
from nets.vae import Vae
from store import load, save
from world import Scene, random_scene, render


def load_vae(workdir: Path, device: str) -> Vae:
    state = load(workdir / "vae.pt")
    if state is None:
        raise FileNotFoundError(f"no autoencoder in '{workdir}'; run stage vae first")
    vae = Vae(VaeConfig())
    vae.load_state_dict(state["model"])
    return vae.to(device).eval().requires_grad_(False)


def touched(cover: np.ndarray) -> np.ndarray:
    """Coverage [F, H, W] -> [1 + (F - 1) / 4, H / 8, W / 8], 1 where the shape touches the code's cell."""
    f, h, w = cover.shape
    c = cover.reshape(f, h // 8, 8, w // 8, 8).max(axis=(2, 4))
    rest = c[1:].reshape((f - 1) // 4, 4, h // 8, w // 8).max(axis=1)
    return (np.concatenate([c[:1], rest]) > 0.02).astype(np.uint8)


@torch.no_grad()
def encode_shard(vae: Vae, g: Geometry, level: str, index: int, device: str) -> dict:
    """Latents [n, z, f, h, w] (fp16, not normalised), mask [n, f, h, w] (uint8), scenes."""
    codes, masks, scenes = [], [], []
    for i in range(g.shard):
        scene = random_scene(np.random.default_rng((g.frames, index, i)), level)
        clip, cover = render(scene, g.frames, g.size)
        x = torch.from_numpy(clip * 2 - 1).permute(3, 0, 1, 2)[None].to(device)
        with torch.autocast(device, dtype=torch.bfloat16):
            mean = vae.encode(x)[0]
        codes.append(mean[0].float().cpu().half())
        masks.append(torch.from_numpy(touched(cover)))
        scenes.append(scene)
    return {"codes": torch.stack(codes), "mask": torch.stack(masks), "scenes": scenes}


def encode(workdir: Path, g: Geometry, level: str, device: str, worker: int = 0, workers: int = 1) -> None:
    """Encodes the missing shards of one geometry; several workers share them by index."""
    vae = load_vae(workdir, device)
    for index in range(worker, -(-g.clips // g.shard), workers):
        path = workdir / "latents" / f"{level}-{g.name}" / f"{index:04d}.pt"
        if not path.exists():
            save(encode_shard(vae, g, level, index, device), path)


def statistics(workdir: Path, level: str, name: str) -> dict[str, Tensor]:
    """Mean and deviation per channel of the codes, measured once and then kept."""
    path = workdir / "stats.pt"
    if (stats := load(path)) is None:
        files = sorted((workdir / "latents" / f"{level}-{name}").glob("*.pt"))
        if not files:
            raise FileNotFoundError(f"no latents '{name}' in '{workdir}'; run stage latents first")
        x = torch.cat([load(f)["codes"] for f in files[:10]]).float().transpose(0, 1).flatten(1)
        stats = {"mean": x.mean(dim=1), "std": x.std(dim=1).clamp_min(1e-3)}
        save(stats, path)
    return stats


class Shards:
    """The latents of one geometry in memory, normalised; `refresh` picks up shards written meanwhile."""

    def __init__(self, workdir: Path, level: str, name: str) -> None:
        self.folder = workdir / "latents" / f"{level}-{name}"
        s = statistics(workdir, level, name)
        self.mean, self.std = (s[k].reshape(-1, 1, 1, 1) for k in ("mean", "std"))
        self.seen: set[str] = set()
        self.codes: list[Tensor] = []
        self.masks: list[Tensor] = []
        self.scenes: list[Scene] = []
        self.refresh()

    def refresh(self) -> None:
        for f in sorted(self.folder.glob("*.pt")):
            if f.name not in self.seen:
                self.seen.add(f.name)
                d = load(f)
                self.codes += list(((d["codes"].float() - self.mean) / self.std).half())
                self.masks += list(d["mask"])
                self.scenes += d["scenes"]

    def batch(self, rng: np.random.Generator, n: int) -> tuple[Tensor, Tensor, list[Scene]]:
        """n random clips: codes [n, z, f, h, w] float32, mask [n, 1, f, h, w] float32, scenes."""
        pick = rng.integers(len(self.codes), size=n)
        return (torch.stack([self.codes[i] for i in pick]).float(),
                torch.stack([self.masks[i] for i in pick]).float()[:, None], [self.scenes[i] for i in pick])
