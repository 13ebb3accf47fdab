"""Tensor names: original Wan2.1 -> diffusers (transformer, vae) and Transformers (text encoder)."""
from __future__ import annotations

import re

_DIT = [("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
        ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
        ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
        ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
        ("time_projection.1", "condition_embedder.time_proj"),
        ("head.modulation", "scale_shift_table"), ("head.head", "proj_out"),
        ("norm3", "norm2"), ("modulation", "scale_shift_table"),
        ("ffn.0", "ffn.net.0.proj"), ("ffn.2", "ffn.net.2"),
        ("self_attn", "attn1"), ("cross_attn", "attn2"),
        (".q.", ".to_q."), (".k.", ".to_k."), (".v.", ".to_v."), (".o.", ".to_out.0.")]

_TEXT = [("token_embedding", "shared"), ("blocks.", "encoder.block."),
         (".norm1.", ".layer.0.layer_norm."), (".norm2.", ".layer.1.layer_norm."),
         (".attn.", ".layer.0.SelfAttention."),
         (".pos_embedding.embedding.", ".layer.0.SelfAttention.relative_attention_bias."),
         (".ffn.gate.0.", ".layer.1.DenseReluDense.wi_0."), (".ffn.fc1.", ".layer.1.DenseReluDense.wi_1."),
         (".ffn.fc2.", ".layer.1.DenseReluDense.wo.")]

_VAE = [(".residual.0.", ".norm1."), (".residual.2.", ".conv1."), (".residual.3.", ".norm2."),
        (".residual.6.", ".conv2."), (".shortcut.", ".conv_shortcut."),
        ("middle.0.", "mid_block.resnets.0."), ("middle.1.", "mid_block.attentions.0."),
        ("middle.2.", "mid_block.resnets.1."), ("head.0.", "norm_out."), ("head.2.", "conv_out."),
        ("encoder.conv1.", "encoder.conv_in."), ("decoder.conv1.", "decoder.conv_in."),
        ("encoder.downsamples.", "encoder.down_blocks.")]


def _replace(name: str, rules: list[tuple[str, str]]) -> str:
    for a, b in rules:
        name = name.replace(a, b)
    return name


def dit_name(name: str) -> str:
    return _replace(name, _DIT)


def text_name(name: str) -> str:
    return "encoder.final_layer_norm.weight" if name == "norm.weight" else _replace(name, _TEXT)


def vae_name(name: str, num_res_blocks: int = 2) -> str:
    if re.match(r"conv[12]\.", name):
        return name.replace("conv1.", "quant_conv.").replace("conv2.", "post_quant_conv.")
    m = re.match(r"decoder\.upsamples\.(\d+)\.(.*)", name)
    if m:
        stage, n = divmod(int(m[1]), num_res_blocks + 2)
        part = "upsamplers.0" if n == num_res_blocks + 1 else f"resnets.{n}"
        name = f"decoder.up_blocks.{stage}.{part}.{m[2]}"
    return _replace(name, _VAE)
