"""UMT5-style text encoder with the original Wan2.1 tensor names: every layer has its own relative position bias."""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from config import TextConfig


class _Gelu(torch.autograd.Function):
    """The tanh form as x * sigmoid(2 * 0.79788 * (x + 0.044715 x^3)), the same function, in few and fast passes."""

    K1 = 2 * math.sqrt(2 / math.pi)
    K2 = K1 * 0.044715

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square().mul_(_Gelu.K2).add_(_Gelu.K1).mul_(x).sigmoid_().mul_(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        square = x.square()
        s = (square * _Gelu.K2).add_(_Gelu.K1).mul_(x).sigmoid_()
        slope = square.mul_(3 * _Gelu.K2).add_(_Gelu.K1).mul_(x).mul_(1 - s).add_(1)
        return slope.mul_(s).mul_(grad)


def gelu(x: Tensor) -> Tensor:
    """GELU in the tanh form."""
    return _Gelu.apply(x)


class Gelu(nn.Module):
    """`gelu` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return gelu(x)


class T5Norm(nn.Module):
    """x / rms(x) * weight."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6) * self.weight


class T5Attention(nn.Module):
    """Attention without biases and without the 1 / sqrt(d) scale."""

    def __init__(self, c: TextConfig) -> None:
        super().__init__()
        self.heads = c.num_heads
        for name in ("q", "k", "v"):
            setattr(self, name, nn.Linear(c.dim, c.dim_attn, bias=False))
        self.o = nn.Linear(c.dim_attn, c.dim, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x [B, T, D]; bias [B, heads, T, T] holds the position bias and the mask."""
        b, t, _ = x.shape
        q, k, v = (m(x).reshape(b, t, self.heads, -1).transpose(1, 2) for m in (self.q, self.k, self.v))
        p = torch.softmax((q @ k.transpose(2, 3)).float() + bias, dim=-1).to(v.dtype)
        return self.o((p @ v).transpose(1, 2).reshape(b, t, -1))


class T5Ffn(nn.Module):
    def __init__(self, c: TextConfig) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(c.dim, c.dim_ffn, bias=False))
        self.fc1 = nn.Linear(c.dim, c.dim_ffn, bias=False)
        self.fc2 = nn.Linear(c.dim_ffn, c.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x) * gelu(self.gate(x)))


class PosEmbedding(nn.Module):
    """Bidirectional buckets: half for keys after the query, exact up to a quarter, then logarithmic."""

    def __init__(self, c: TextConfig) -> None:
        super().__init__()
        self.buckets, self.max_distance = c.num_buckets, c.max_distance
        self.embedding = nn.Embedding(c.num_buckets, c.num_heads)

    def bucket(self, rel: Tensor) -> Tensor:
        """Bucket of each offset, key position minus query position."""
        half = self.buckets // 2
        exact = half // 2
        n = rel.abs()
        far = exact + (torch.log(n.float().clamp_min(1) / exact) / math.log(self.max_distance / exact)
                       * (half - exact)).long()
        return (rel > 0).long() * half + torch.where(n < exact, n, far.clamp_max(half - 1))

    def forward(self, t: int) -> Tensor:
        """Bias [heads, T, T]."""
        pos = torch.arange(t, device=self.embedding.weight.device)
        return self.embedding(self.bucket(pos[None, :] - pos[:, None])).permute(2, 0, 1)


class T5Block(nn.Module):
    def __init__(self, c: TextConfig) -> None:
        super().__init__()
        self.norm1, self.attn = T5Norm(c.dim), T5Attention(c)
        self.norm2, self.ffn = T5Norm(c.dim), T5Ffn(c)
        self.pos_embedding = PosEmbedding(c)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), self.pos_embedding(x.shape[1])[None] + mask)
        return x + self.ffn(self.norm2(x))


class TextEncoder(nn.Module):
    def __init__(self, c: TextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(c.vocab_size, c.dim)
        self.blocks = nn.ModuleList(T5Block(c) for _ in range(c.num_layers))
        self.norm = T5Norm(c.dim)
        nn.init.normal_(self.token_embedding.weight, std=1.0)
        for b in self.blocks:
            nn.init.normal_(b.pos_embedding.embedding.weight, std=0.1)
            nn.init.normal_(b.attn.q.weight, std=(c.dim * c.dim_attn / c.num_heads) ** -0.5)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """ids [B, T], lengths [B] -> states [B, T, D], zero after each caption's end token."""
        valid = torch.arange(ids.shape[1], device=ids.device)[None] < lengths[:, None]
        mask = torch.zeros_like(valid, dtype=torch.float32).masked_fill(~valid, -1e30)[:, None, None]
        x = self.token_embedding(ids)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x) * valid[..., None]
