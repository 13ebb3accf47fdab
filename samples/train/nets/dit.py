"""Wan2.1 diffusion transformer (text to video) with the original tensor names.

Latents are [B, 16, F, H, W]; a token is 1 x 2 x 2 of their cells, in the order frame, row, column. L counts video
tokens, D is the model's width, T the caption length.
"""
from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config import DitConfig
from nets.text import Gelu


class _Rms(torch.autograd.Function):
    """x / rms(x) * weight over the last axis; the mean is taken in float32."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.rsqrt(x.square().mean(dim=-1, keepdim=True, dtype=torch.float32) + eps).to(x.dtype)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight.to(x.dtype))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        unit = x * scale
        dweight = (grad * unit).sum(dim=list(range(x.dim() - 1)), dtype=torch.float32)
        grad = grad * weight.to(x.dtype)
        mean = (grad * unit).mean(dim=-1, keepdim=True)
        return grad.sub_(unit.mul_(mean)).mul_(scale), dweight.to(weight.dtype), None


class RmsNorm(nn.Module):
    """Over all heads together."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        return _Rms.apply(x, self.weight, self.eps)


@lru_cache(maxsize=16)
def rope_table(grid: tuple[int, int, int], head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [L, head_dim] (each value twice) for a token grid of frames, rows, columns."""
    each = 2 * (head_dim // 6)
    angles = []
    for axis, width in enumerate((head_dim - 2 * each, each, each)):
        ladder = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        shape = [1, 1, 1, width // 2]
        shape[axis] = grid[axis]
        a = torch.outer(torch.arange(grid[axis], dtype=torch.float64), ladder).reshape(shape)
        angles.append(a.expand(*grid, width // 2))
    a = torch.cat(angles, dim=-1).reshape(-1, head_dim // 2).repeat_interleave(2, dim=-1)
    return a.cos().float().to(device), a.sin().float().to(device)


@lru_cache(maxsize=4)
def pair_swap(head_dim: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The matrix P with (x P)[2i] = -x[2i + 1] and (x P)[2i + 1] = x[2i]."""
    p = torch.zeros(head_dim, head_dim)
    even = torch.arange(0, head_dim, 2)
    p[even + 1, even] = -1
    p[even, even + 1] = 1
    return p.to(device, dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates adjacent pairs of [B, L, heads, d]."""
    swapped = x @ pair_swap(x.shape[-1], x.device, x.dtype)
    return x * cos.to(x.dtype)[:, None] + swapped * sin.to(x.dtype)[:, None]


class _LayerNorm(torch.autograd.Function):
    """(x - mean) / deviation over the last axis."""

    @staticmethod
    def forward(ctx, x: Tensor, eps: float) -> Tensor:
        y = x - x.mean(dim=-1, keepdim=True, dtype=torch.float32).to(x.dtype)
        scale = torch.rsqrt(y.square().mean(dim=-1, keepdim=True, dtype=torch.float32) + eps).to(x.dtype)
        y.mul_(scale)
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        y, scale = ctx.saved_tensors
        along = (grad * y).mean(dim=-1, keepdim=True)
        return (grad - grad.mean(dim=-1, keepdim=True)).addcmul_(y, along, value=-1).mul_(scale), None


class Attention(nn.Module):
    """Self or cross attention; queries and keys pass a norm over the full width first."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RmsNorm(dim, eps), RmsNorm(dim, eps)

    def forward(self, x: Tensor, source: Tensor, rope: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """x [B, L, D] attends to source [B, S, D]."""
        b, n, d = x.shape
        q = self.norm_q(self.q(x)).reshape(b, n, self.heads, -1)
        k = self.norm_k(self.k(source)).reshape(b, source.shape[1], self.heads, -1)
        v = self.v(source).reshape(b, source.shape[1], self.heads, -1)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        p = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(2, 3), dim=-1)
        return self.o((p @ v).transpose(1, 2).reshape(b, n, d))


class Block(nn.Module):
    def __init__(self, c: DitConfig) -> None:
        super().__init__()
        self.eps = c.eps
        self.self_attn = Attention(c.dim, c.num_heads, c.eps)
        self.norm3 = nn.LayerNorm(c.dim, c.eps)
        self.cross_attn = Attention(c.dim, c.num_heads, c.eps)
        self.ffn = nn.Sequential(nn.Linear(c.dim, c.ffn_dim), Gelu(),
                                 nn.Linear(c.ffn_dim, c.dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, c.dim) / c.dim ** 0.5)

    def forward(self, x: Tensor, e: Tensor, context: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """x [B, L, D], e [B, 6, D], context [B, T, D]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation + e).to(x.dtype).unsqueeze(2).unbind(1)
        y = modulate(x, shift1, scale1, self.eps)
        x = torch.addcmul(x, self.self_attn(y, y, rope), gate1)
        y = torch.addcmul(self.norm3.bias.to(x.dtype), _LayerNorm.apply(x, self.eps), self.norm3.weight.to(x.dtype))
        x = x + self.cross_attn(y, context)
        return torch.addcmul(x, self.ffn(modulate(x, shift2, scale2, self.eps)), gate2)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """layer norm without parameters, * (1 + scale) + shift."""
    return torch.addcmul(shift, _LayerNorm.apply(x, eps), 1 + scale)


class Head(nn.Module):
    def __init__(self, c: DitConfig) -> None:
        super().__init__()
        self.eps = c.eps
        self.head = nn.Linear(c.dim, 4 * c.out_dim)
        self.modulation = nn.Parameter(torch.randn(1, 2, c.dim) / c.dim ** 0.5)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        shift, scale = (self.modulation + e[:, None]).to(x.dtype).unsqueeze(2).unbind(1)
        return self.head(modulate(x, shift, scale, self.eps))


class Dit(nn.Module):
    def __init__(self, c: DitConfig) -> None:
        super().__init__()
        self.c = c
        self.patch_embedding = nn.Conv3d(c.in_dim, c.dim, (1, 2, 2), stride=(1, 2, 2))
        self.text_embedding = nn.Sequential(nn.Linear(c.text_dim, c.dim), Gelu(),
                                            nn.Linear(c.dim, c.dim))
        self.time_embedding = nn.Sequential(nn.Linear(c.freq_dim, c.dim), nn.SiLU(), nn.Linear(c.dim, c.dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(c.dim, 6 * c.dim))
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.num_layers))
        self.head = Head(c)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                nn.init.zeros_(m.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        for m in (*self.text_embedding, *self.time_embedding):
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, std=0.02)
        nn.init.zeros_(self.head.head.weight)

    def time_vectors(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """t [B] on the scale 0..1000 -> e [B, D], e0 [B, 6, D]; always in float32."""
        half = self.c.freq_dim // 2
        with torch.autocast(t.device.type, enabled=False):
            angle = torch.outer(t.double(), 10000.0 ** (-torch.arange(half, device=t.device).double() / half))
            e = self.time_embedding(torch.cat([angle.cos(), angle.sin()], dim=1).float())
            return e, self.time_projection(e).reshape(t.shape[0], 6, -1)

    def forward(self, latent: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """latent [B, 16, F, H, W], t [B], context [B, <= T, text_dim] -> velocity, like the latent."""
        c = self.c
        b, ch, f, h, w = latent.shape
        grid = (f, h // 2, w // 2)
        patches = latent.reshape(b, ch, f, h // 2, 2, w // 2, 2).permute(0, 2, 3, 5, 1, 4, 6).reshape(b, -1, ch * 4)
        x = F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)
        e, e0 = self.time_vectors(t)
        context = self.text_embedding(F.pad(context, (0, 0, 0, c.text_len - context.shape[1])))
        rope = rope_table(grid, c.dim // c.num_heads, latent.device)
        for block in self.blocks:
            x = block(x, e0, context, rope)
        y = self.head(x, e).reshape(b, *grid, 2, 2, c.out_dim)
        return y.permute(0, 6, 1, 2, 4, 3, 5).reshape(b, c.out_dim, f, h, w)
