"""An exported model folder, loaded into the networks here."""
from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

import names
import stfile
from config import DitConfig, TextConfig, VaeConfig
from nets.dit import Dit
from nets.text import TextEncoder
from nets.vae import Vae
from vocab import Tokenizer


def fill(net: nn.Module, tensors: dict[str, Tensor], rename) -> nn.Module:
    """Loads exported tensors into a network with the original names."""
    net.load_state_dict({k: tensors[rename(k)].float() for k in net.state_dict()})
    return net.eval().requires_grad_(False)


class Bundle:
    """An exported folder: tokenizer, text encoder, transformer, autoencoder, and the latents' mean and deviation."""

    def __init__(self, folder: Path, device: str) -> None:
        self.tok = Tokenizer(folder / "tokenizer/spiece.model")
        self.text = fill(TextEncoder(TextConfig()), stfile.read(folder / "text_encoder/model.safetensors"),
                         names.text_name).to(device)
        self.dit = fill(Dit(DitConfig()), stfile.read(folder / "transformer/diffusion_pytorch_model.safetensors"),
                        names.dit_name).to(device)
        self.vae = fill(Vae(VaeConfig()), stfile.read(folder / "vae/diffusion_pytorch_model.safetensors"),
                        names.vae_name).to(device)
        c = json.loads((folder / "vae/config.json").read_text())
        self.mean, self.std = (torch.tensor(c[k], device=device) for k in ("latents_mean", "latents_std"))
