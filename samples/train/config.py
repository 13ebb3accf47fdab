"""Sizes of the networks and settings of the training stages."""
from __future__ import annotations

from dataclasses import dataclass, field

TEXT_LEN = 32                 # tokens a caption is padded to
PAD, EOS, UNK = 0, 1, 2       # token ids, as in UMT5
NATIVE = (33, 192)            # frames, height = width in pixels


@dataclass(frozen=True)
class VaeConfig:
    base_dim: int = 8
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temperal_downsample: tuple[bool, ...] = (False, True, True)  # spelled as published


@dataclass(frozen=True)
class TextConfig:
    vocab_size: int = 128
    dim: int = 128
    dim_attn: int = 128
    dim_ffn: int = 256
    num_heads: int = 2
    num_layers: int = 2
    num_buckets: int = 32
    max_distance: int = 128


@dataclass(frozen=True)
class DitConfig:
    in_dim: int = 16
    out_dim: int = 16
    dim: int = 192
    ffn_dim: int = 512
    num_heads: int = 3
    num_layers: int = 6
    text_dim: int = 128
    freq_dim: int = 256
    text_len: int = TEXT_LEN
    eps: float = 1e-6


@dataclass(frozen=True)
class VaeStage:
    """Steps of the autoencoder stage: pictures first, then clips."""
    image_steps: int = 2200
    video_steps: int = 2400
    image_lr: float = 1e-3
    video_lr: float = 8e-4
    kl: float = 5e-4
    save_every: int = 200


SHIFT = 3.0                   # timestep shift in training and sampling


@dataclass(frozen=True)
class Geometry:
    """A clip size with its training share: `clips` to encode, in shards of `shard`; `batch` clips a step and process."""
    frames: int
    size: int
    clips: int
    shard: int
    batch: int

    @property
    def name(self) -> str:
        return f"{self.frames}x{self.size}"

    @property
    def grid(self) -> tuple[int, int, int]:
        """Frames, rows and columns of the latent."""
        return 1 + (self.frames - 1) // 4, self.size // 8, self.size // 8


GEOMETRIES = {g.name: g for g in (
    Geometry(9, 96, 8000, 100, 24), Geometry(17, 128, 600, 50, 8), Geometry(33, 192, 500, 20, 2))}


@dataclass(frozen=True)
class Phase:
    """Steps of the transformer stage on a mix of clip sizes {name: share}; learning rates fall linearly when `decay`."""
    steps: int
    mix: dict[str, float]
    lr: float = 1.0           # factor on both learning rates
    decay: bool = False
    shape_weight: float = 5.0  # weight of latent cells that the shape touches; low at the end, as it swells shapes


@dataclass(frozen=True)
class DitStage:
    phases: tuple[Phase, ...] = (
        Phase(600, {"9x96": 1.0}),
        Phase(2000, {"9x96": 0.3, "17x128": 0.3, "33x192": 0.4}, 0.6),
        Phase(1200, {"9x96": 0.1, "17x128": 0.2, "33x192": 0.7}, 0.5, decay=True, shape_weight=1.5))
    adam_lr: float = 3e-3
    muon_lr: float = 0.03
    no_caption: float = 0.1    # share of captions replaced by the end token alone
    save_every: int = 50
    geometries: dict[str, Geometry] = field(default_factory=lambda: dict(GEOMETRIES))


FEW_STEPS = (1000, 750, 500, 250)  # of 1000, before the shift of SHIFT: noise levels 1, 0.9, 0.75, 0.5


@dataclass(frozen=True)
class DistillStage:
    """The few-step LoRA: first what guided trajectories show, then what guidance makes of the student's own states."""
    guidance: float = 4.0      # of the teacher
    substeps: int = 6          # of the teacher for each step of the student
    rank: int = 16
    lr: float = 2e-3
    trajectories: dict[str, Geometry] = field(default_factory=lambda: {g.name: g for g in (
        Geometry(9, 96, 768, 48, 12), Geometry(17, 128, 192, 16, 4), Geometry(33, 192, 48, 4, 2))})
    rollouts: dict[str, Geometry] = field(default_factory=lambda: {g.name: g for g in (
        Geometry(9, 96, 192, 48, 12), Geometry(17, 128, 48, 16, 4), Geometry(33, 192, 12, 4, 2))})
    phases: tuple[Phase, ...] = (
        Phase(350, {"9x96": 1.0}),
        Phase(200, {"9x96": 0.3, "17x128": 0.4, "33x192": 0.3}, 0.4),
        Phase(120, {"9x96": 0.2, "17x128": 0.4, "33x192": 0.4}, 0.4, decay=True))
    own_states: float = 0.5    # share of the rollouts in the last phase
    save_every: int = 25
