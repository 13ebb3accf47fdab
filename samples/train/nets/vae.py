"""Wan2.1 video autoencoder with the original tensor names, in whole-clip form.

The published program works in chunks (1, 4, 4, ... frames) with a cache; running the whole clip with zero padding in
front gives the same values (golden.py checks it) and needs no cache. Clips are [B, 3, F, H, W] in [-1, 1] with
F = 1 + 4 n and H, W multiples of 8; codes are [B, z, 1 + n, H / 8, W / 8].
"""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config import VaeConfig


class _NormSilu(torch.autograd.Function):
    """silu(x / |x| * sqrt(C) * gamma) over channels; keeps only the input for the backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, gamma: Tensor) -> Tensor:
        length = x.square().sum(dim=1, keepdim=True, dtype=torch.float32).sqrt_().clamp_min_(1e-12)
        scale = (x.shape[1] ** 0.5 / length).to(x.dtype)
        ctx.save_for_backward(x, gamma, scale)
        return F.silu((x * scale).mul_(gamma.to(x.dtype)), inplace=True)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, gamma, scale = ctx.saved_tensors
        unit = x * scale
        cast = gamma.to(x.dtype)
        grad = torch.ops.aten.silu_backward(grad, unit * cast)
        product = grad * unit
        dgamma = product.sum(dim=[0] + list(range(2, x.dim())), dtype=torch.float32).reshape(gamma.shape)
        mean = product.mul_(cast).mean(dim=1, keepdim=True)
        return (grad.mul_(cast).sub_(unit.mul_(mean))).mul_(scale), dgamma.to(gamma.dtype)


class RmsNorm(nn.Module):
    """Root-mean-square norm over channels; gamma is [C, 1, 1, 1] for clips and [C, 1, 1] for pictures."""

    def __init__(self, dim: int, images: bool = False) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones((dim, 1, 1) if images else (dim, 1, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * x.shape[1] ** 0.5 * self.gamma

    def silu(self, x: Tensor) -> Tensor:
        """The norm followed by SiLU."""
        return _NormSilu.apply(x, self.gamma)


class CausalConv3d(nn.Conv3d):
    """Conv3d that sees only the past: kernel 3 pads two zero frames in front and one pixel on each side."""

    def forward(self, x: Tensor) -> Tensor:
        kt, kh, _ = self.kernel_size
        if x.shape[2] == 1:  # zero history: only the newest slice counts
            return F.conv2d(x[:, :, 0], self.weight[:, :, -1], self.bias, padding=kh // 2).unsqueeze(2)
        if kt > 1:
            x = F.pad(x, (0, 0, 0, 0, kt - 1, 0))
        return F.conv3d(x, self.weight, self.bias, padding=(0, kh // 2, kh // 2))


class ResidualBlock(nn.Module):
    """Norm, SiLU, conv, twice, plus the input (through a 1x1x1 conv when the width changes)."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            RmsNorm(in_dim), nn.SiLU(), CausalConv3d(in_dim, out_dim, 3),
            RmsNorm(out_dim), nn.SiLU(), nn.Dropout(0.0), CausalConv3d(out_dim, out_dim, 3))
        self.shortcut = CausalConv3d(in_dim, out_dim, 1) if in_dim != out_dim else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        r = self.residual
        return self.shortcut(x) + r[6](r[3].silu(r[2](r[0].silu(x))))


class AttentionBlock(nn.Module):
    """Single-head attention within each frame."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = RmsNorm(dim, images=True)
        self.to_qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)
        nn.init.zeros_(self.proj.weight)

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        y = x.transpose(1, 2).reshape(b * t, c, h, w)
        q, k, v = self.to_qkv(self.norm(y)).reshape(b * t, 3, c, h * w).transpose(2, 3).unbind(1)
        a = torch.softmax(q @ k.transpose(1, 2) * c ** -0.5, dim=-1) @ v
        y = self.proj(a.transpose(1, 2).reshape(b * t, c, h, w))
        return x + y.reshape(b, t, c, h, w).transpose(1, 2)


def _per_frame(x: Tensor, layer: nn.Module) -> Tensor:
    """Applies a picture layer to every frame of [B, C, T, H, W]."""
    b, c, t, h, w = x.shape
    y = layer(x.transpose(1, 2).reshape(b * t, c, h, w))
    return y.reshape(b, t, *y.shape[1:]).transpose(1, 2)


class Downsample(nn.Module):
    """Halves height and width, and the frames after the first when `temporal`."""

    def __init__(self, dim: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(dim, dim, 3, stride=2))
        self.time_conv = nn.Conv3d(dim, dim, (3, 1, 1), stride=(2, 1, 1)) if temporal else None

    def forward(self, x: Tensor) -> Tensor:
        x = _per_frame(x, self.resample)
        if self.time_conv is None or x.shape[2] == 1:
            return x
        y = self.time_conv(x)
        return torch.cat([x[:, :, :1].to(y.dtype), y], dim=2)


class Upsample(nn.Module):
    """Doubles height and width, and the frames after the first when `temporal`; halves the channels."""

    def __init__(self, dim: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.Upsample(scale_factor=2.0, mode="nearest"),
                                      nn.Conv2d(dim, dim // 2, 3, padding=1))
        self.time_conv = CausalConv3d(dim, 2 * dim, (3, 1, 1)) if temporal else None

    def forward(self, x: Tensor) -> Tensor:
        if self.time_conv is not None and x.shape[2] > 1:
            b, c, t, h, w = x.shape  # frame 0 is neither doubled nor part of the history
            y = self.time_conv(x[:, :, 1:])
            y = y.reshape(b, 2, c, t - 1, h, w).permute(0, 2, 3, 1, 4, 5).reshape(b, c, 2 * t - 2, h, w)
            x = torch.cat([x[:, :, :1].to(y.dtype), y], dim=2)
        return _per_frame(x, self.resample)


class Encoder(nn.Module):
    def __init__(self, c: VaeConfig) -> None:
        super().__init__()
        dims = [c.base_dim * m for m in (1, *c.dim_mult)]
        self.conv1 = CausalConv3d(3, dims[0], 3)
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(zip(dims[:-1], dims[1:])):
            for _ in range(c.num_res_blocks):
                layers.append(ResidualBlock(a, b))
                a = b
            if i < len(c.dim_mult) - 1:
                layers.append(Downsample(b, c.temperal_downsample[i]))
        self.downsamples = nn.Sequential(*layers)
        self.middle = nn.Sequential(ResidualBlock(b, b), AttentionBlock(b), ResidualBlock(b, b))
        self.head = nn.Sequential(RmsNorm(b), nn.SiLU(), CausalConv3d(b, 2 * c.z_dim, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.downsamples(self.conv1(x)))
        return self.head[2](self.head[0].silu(x))


class Decoder(nn.Module):
    def __init__(self, c: VaeConfig) -> None:
        super().__init__()
        dims = [c.base_dim * m for m in (c.dim_mult[-1], *reversed(c.dim_mult))]
        temporal = list(reversed(c.temperal_downsample))
        self.conv1 = CausalConv3d(c.z_dim, dims[0], 3)
        self.middle = nn.Sequential(ResidualBlock(dims[0], dims[0]), AttentionBlock(dims[0]),
                                    ResidualBlock(dims[0], dims[0]))
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(zip(dims[:-1], dims[1:])):
            a = a if i == 0 else a // 2
            for _ in range(c.num_res_blocks + 1):
                layers.append(ResidualBlock(a, b))
                a = b
            if i < len(c.dim_mult) - 1:
                layers.append(Upsample(b, temporal[i]))
        self.upsamples = nn.Sequential(*layers)
        self.head = nn.Sequential(RmsNorm(b), nn.SiLU(), CausalConv3d(b, 3, 3))

    def forward(self, z: Tensor) -> Tensor:
        x = self.upsamples(self.middle(self.conv1(z)))
        return self.head[2](self.head[0].silu(x))


class Vae(nn.Module):
    def __init__(self, c: VaeConfig) -> None:
        super().__init__()
        self.encoder = Encoder(c)
        self.conv1 = CausalConv3d(2 * c.z_dim, 2 * c.z_dim, 1)
        self.conv2 = CausalConv3d(c.z_dim, c.z_dim, 1)
        self.decoder = Decoder(c)

    def encode(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Clip [B, 3, F, H, W] -> mean and log variance, [B, z, f, h, w] each, not normalised."""
        mean, logvar = self.conv1(self.encoder(clip)).chunk(2, dim=1)
        return mean, logvar

    def decode(self, z: Tensor) -> Tensor:
        """Code [B, z, f, h, w] (not normalised) -> clip [B, 3, F, H, W], not clamped."""
        return self.decoder(self.conv2(z))


@torch.no_grad()
def init_flow_through(vae: Vae) -> None:
    """Start in which every path is close to the identity; on few steps it is worth several dB."""

    def eye(weight: Tensor, rows: int) -> Tensor:
        e = torch.zeros(weight.shape[:2])
        n = min(rows, weight.shape[1])
        e[:n, :n] = torch.eye(n)
        return e

    for m in vae.modules():
        if isinstance(m, CausalConv3d) and m.kernel_size == (3, 3, 3):
            m.weight[:, :, :2] *= 0.05
            m.weight[:, :, 2] *= 3 ** 0.5
    for m in vae.modules():
        if isinstance(m, ResidualBlock):
            m.residual[6].weight *= 0.1
            if isinstance(m.shortcut, CausalConv3d):
                w = m.shortcut.weight
                w *= 0.3
                w[:, :, 0, 0, 0] += eye(w, w.shape[0])
        elif isinstance(m, Downsample):
            w = m.resample[1].weight
            w *= 0.3
            w[:, :, :2, :2] += eye(w, w.shape[0])[:, :, None, None] / 4
            if m.time_conv is not None:
                w = m.time_conv.weight
                w *= 0.1
                w[:, :, 2, 0, 0] += eye(w, w.shape[0])
        elif isinstance(m, Upsample):
            w = m.resample[1].weight
            w *= 0.3
            w[:, :, 1, 1] += eye(w, w.shape[0])
            if m.time_conv is not None:
                w = m.time_conv.weight
                half = w.shape[0] // 2
                w *= 0.1
                for part in (w[:half], w[half:]):
                    part[:, :, 2, 0, 0] += torch.eye(half)
    z = vae.conv2.weight.shape[0]
    vae.conv1.weight[:z] *= 2.0
    vae.conv1.weight[z:] *= 0.1
    vae.conv1.bias[z:] = -6.0
