"""The few-step LoRA: low-rank additions to every linear layer of the transformer, and their safetensors file.

W' = W + up @ down, in float32. The file has the layout that ComfyUI and most trainers use.
"""
from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import stfile
from config import FEW_STEPS, SHIFT
from nets.dit import Dit

PREFIX = "diffusion_model."
Factors = dict[str, tuple[Tensor, Tensor]]  # module -> down [rank, in], up [out, rank]


def linears(dit: Dit) -> dict[str, nn.Linear]:
    return {n: m for n, m in dit.named_modules() if isinstance(m, nn.Linear)}


def fresh(dit: Dit, rank: int) -> Factors:
    """Factors whose product is zero, the same on every call."""
    generator = torch.Generator().manual_seed(0)
    return {n: (torch.randn(rank, m.in_features, generator=generator) * m.in_features ** -0.5,
                torch.zeros(m.out_features, rank)) for n, m in linears(dit).items()}


def merged(dit: Dit, factors: Factors, strength: float = 1.0) -> dict[str, Tensor]:
    """The weights that the factors change, by parameter name; gradients reach the factors."""
    layers = linears(dit)
    return {f"{n}.weight": torch.addmm(layers[n].weight, up, down, alpha=strength)
            for n, (down, up) in factors.items()}


def merge(dit: Dit, factors: Factors, strength: float = 1.0) -> None:
    """Adds the factors to the weights in place."""
    weights = merged(dit, factors, strength)
    for n, m in linears(dit).items():
        if n in factors:
            m.weight.data.copy_(weights[f"{n}.weight"])


def write(factors: Factors, path: Path) -> None:
    """fp16; the header says how the model is to be sampled with it."""
    tensors = {}
    for n, (down, up) in factors.items():
        tensors[f"{PREFIX}{n}.lora_down.weight"] = down.half()
        tensors[f"{PREFIX}{n}.lora_up.weight"] = up.half()
        tensors[f"{PREFIX}{n}.alpha"] = torch.tensor(float(len(down)), dtype=torch.float16)
    for n, t in tensors.items():
        if not torch.isfinite(t).all():
            raise ValueError(f"tensor '{n}' does not fit fp16")
    stfile.write(tensors, path, {
        "modelspec.title": "shapes-tiny, four steps", "modelspec.architecture": "wan2.1/lora",
        "modelspec.description": f"Guided sampling of shapes-tiny in {len(FEW_STEPS)} Euler steps without guidance.",
        "modelspec.license": "MIT", "base_model": "shapes-tiny", "trigger": "",
        "few_step.sampler": "euler", "few_step.timesteps": ",".join(map(str, FEW_STEPS)),
        "few_step.flow_shift": f"{SHIFT:g}", "few_step.guidance_scale": "1"})


def read(path: Path, dit: Dit) -> Factors:
    """Factors for `dit` with alpha / rank taken into the up matrix; ValueError when a tensor has no place in it."""
    tensors = {k: v.float() for k, v in stfile.read(path).items()}
    factors: Factors = {}
    for n, m in linears(dit).items():
        parts = [tensors.pop(f"{PREFIX}{n}.{k}", None) for k in ("lora_down.weight", "lora_up.weight", "alpha")]
        if parts[0] is None and parts[1] is None:
            continue
        down, up, alpha = parts
        if down is None or up is None or down.shape[1:] != (m.in_features,) or up.shape != (m.out_features, len(down)):
            raise ValueError(f"'{path}': the matrices of '{n}' do not fit the model")
        factors[n] = down, up if alpha is None else up * (alpha.item() / len(down))
    if tensors or not factors:
        raise ValueError(f"'{path}': " + (f"tensor '{min(tensors)}' has no place in the model" if tensors
                                          else "nothing in it fits the model"))
    return factors
