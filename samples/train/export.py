"""Writes the trained parts as a folder in diffusers layout, weights in fp16."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from torch import Tensor

import names
import stfile
from config import SHIFT, TEXT_LEN, DitConfig, TextConfig, VaeConfig
from nets.dit import Dit
from nets.text import TextEncoder
from nets.vae import Vae
from store import load
from vocab import train_vocab


def _json(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def half(tensors: dict[str, Tensor], rename) -> dict[str, Tensor]:
    out = {rename(k): v.half() for k, v in tensors.items()}
    for k, v in out.items():
        if not torch.isfinite(v).all():
            raise ValueError(f"tensor '{k}' does not fit fp16")
    return out


def export(workdir: Path, out: Path) -> None:
    """Averaged weights of the last checkpoints; a stage that has not run yet is written with its starting weights."""
    v, t, d = VaeConfig(), TextConfig(), DitConfig()
    vae_state = load(workdir / "vae.pt") or {"model": Vae(v).state_dict()}
    stats = load(workdir / "stats.pt") or {"mean": torch.zeros(v.z_dim), "std": torch.ones(v.z_dim)}
    dit_state = load(workdir / "dit.pt")
    ema = dit_state["ema"] if dit_state else {"text." + k: p for k, p in TextEncoder(t).state_dict().items()} | {
        "dit." + k: p for k, p in Dit(d).state_dict().items()}
    text = {k[5:]: p for k, p in ema.items() if k.startswith("text.")}
    dit = {k[4:]: p for k, p in ema.items() if k.startswith("dit.")}
    train_vocab(workdir / "spiece.model")

    _json(out / "model_index.json", {
        "_class_name": "WanPipeline", "_diffusers_version": "0.33.0",
        "scheduler": ["diffusers", "UniPCMultistepScheduler"], "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"], "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
        # Ours: what the runtime generates when it is asked for nothing else.
        "native_width": 192, "native_height": 192, "native_frames": 33, "fps": 16, "steps": 20,
        "guidance_scale": 4.0})
    _json(out / "transformer/config.json", {
        "_class_name": "WanTransformer3DModel", "patch_size": [1, 2, 2], "num_attention_heads": d.num_heads,
        "attention_head_dim": d.dim // d.num_heads, "in_channels": d.in_dim, "out_channels": d.out_dim,
        "text_dim": d.text_dim, "freq_dim": d.freq_dim, "ffn_dim": d.ffn_dim, "num_layers": d.num_layers,
        "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "eps": d.eps, "image_dim": None,
        "added_kv_proj_dim": None, "rope_max_seq_len": 1024, "pos_embed_seq_len": None, "text_len": d.text_len})
    _json(out / "text_encoder/config.json", {
        "architectures": ["UMT5EncoderModel"], "model_type": "umt5", "d_model": t.dim,
        "d_kv": t.dim_attn // t.num_heads, "d_ff": t.dim_ffn, "num_heads": t.num_heads, "num_layers": t.num_layers,
        "vocab_size": t.vocab_size, "relative_attention_num_buckets": t.num_buckets,
        "relative_attention_max_distance": t.max_distance, "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu_new", "is_gated_act": True, "is_encoder_decoder": False, "layer_norm_epsilon": 1e-6,
        "dropout_rate": 0.0, "pad_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": False})
    _json(out / "tokenizer/tokenizer_config.json", {
        "tokenizer_class": "T5Tokenizer", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>",
        "extra_ids": 0, "model_max_length": TEXT_LEN})
    _json(out / "vae/config.json", {
        "_class_name": "AutoencoderKLWan", "base_dim": v.base_dim, "z_dim": v.z_dim, "dim_mult": list(v.dim_mult),
        "num_res_blocks": v.num_res_blocks, "attn_scales": [], "temperal_downsample": list(v.temperal_downsample),
        "dropout": 0.0, "latents_mean": [round(float(x), 6) for x in stats["mean"]],
        "latents_std": [round(float(x), 6) for x in stats["std"]]})
    _json(out / "scheduler/scheduler_config.json", {
        "_class_name": "UniPCMultistepScheduler", "num_train_timesteps": 1000, "solver_order": 2, "solver_type": "bh2",
        "predict_x0": True, "lower_order_final": True, "final_sigmas_type": "zero", "use_flow_sigmas": True,
        "prediction_type": "flow_prediction", "flow_shift": SHIFT})
    shutil.copyfile(workdir / "spiece.model", out / "tokenizer/spiece.model")
    stfile.write(half(dit, names.dit_name), out / "transformer/diffusion_pytorch_model.safetensors")
    stfile.write(half(text, names.text_name), out / "text_encoder/model.safetensors")
    stfile.write(half(vae_state["model"], names.vae_name), out / "vae/diffusion_pytorch_model.safetensors")
