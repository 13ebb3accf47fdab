"""Writes a Wan2.1 model of released width with random weights, in each layout that people hold.

usage: make.py MODEL OUT [--layers N] [--text-layers N]

MODEL: samples/models/shapes-tiny, whose names, tokenizer and schedule are taken; OUT: a folder. 30 layers are the
1.3B model's, and make about 16 GB in all; the text encoder has UMT5-XXL's width and two of its 24 layers. What is
there already is kept. OUT/layouts.json says how each layout is opened, and what LoRA goes with it.
"""
import argparse
import json
import os
import shutil
import struct

import numpy as np

WIDTH, HIDDEN, TEXT, FREQUENCIES = 1536, 8960, 4096, 256
VAE_FACTOR = 12  # of the bundled autoencoder's 8 channels
LINEARS = [f"{a}.{n}" for a in ("self_attn", "cross_attn") for n in "qkvo"] + ["ffn.0", "ffn.2"]
BYTES = {"F32": 4, "F16": 2, "I8": 1, "U8": 1, "F8_E4M3": 1}
TO_DIFFUSERS = (
    ("self_attn.norm_", "attn1.norm_"), ("cross_attn.norm_", "attn2.norm_"), ("self_attn.o.", "attn1.to_out.0."),
    ("cross_attn.o.", "attn2.to_out.0."), ("self_attn.", "attn1.to_"), ("cross_attn.", "attn2.to_"),
    ("ffn.0.", "ffn.net.0.proj."), ("ffn.2.", "ffn.net.2."), ("norm3.", "norm2."), ("head.head.", "proj_out."),
    ("head.modulation", "scale_shift_table"), ("modulation", "scale_shift_table"),
    ("text_embedding.0.", "condition_embedder.text_embedder.linear_1."),
    ("text_embedding.2.", "condition_embedder.text_embedder.linear_2."),
    ("time_embedding.0.", "condition_embedder.time_embedder.linear_1."),
    ("time_embedding.2.", "condition_embedder.time_embedder.linear_2."),
    ("time_projection.1.", "condition_embedder.time_proj."))

random = np.random.default_rng(0)
POOL = {
    "F16": (random.normal(0, 0.02, 1 << 22)).astype("<f2").tobytes(),
    "F32": np.full(1 << 20, 0.01, "<f4").tobytes(),
    "I8": random.integers(-127, 128, 1 << 22, dtype=np.int8).tobytes(),
    "F8_E4M3": (random.integers(0, 0x30, 1 << 22) | random.integers(0, 2, 1 << 22) << 7).astype("u1").tobytes(),
}


def size(dtype, shape):
    return int(np.prod(shape)) * BYTES[dtype]


def write_values(file, count, pool):
    while count > 0:
        file.write(pool[:min(count, len(pool))])
        count -= len(pool)


def write_safetensors(path, tensors):
    """tensors: name -> (dtype, shape, bytes, or None for random ones)."""
    if os.path.exists(path):
        return
    header, offset = {}, 0
    for name, (dtype, shape, _) in tensors.items():
        end = offset + size(dtype, shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".part", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for dtype, shape, data in tensors.values():
            if data is None:
                write_values(file, size(dtype, shape), POOL[dtype])
            else:
                file.write(data)
    os.rename(path + ".part", path)


def write_gguf(path, tensors, kinds):
    """Linears of the blocks in Q4_K and, for v and ffn.2, Q6_K, as a Q4_K_M file has them (gguf fact 51)."""
    if os.path.exists(path):
        return
    scale = np.float16(0.0005).tobytes()
    codes = random.integers(0, 256, (4096, 128), dtype=np.uint8)
    scales = random.integers(0, 60, (4096, 12), dtype=np.uint8)
    q4 = b"".join(scale + scale + s.tobytes() + c.tobytes() for s, c in zip(scales, codes))
    low, high = codes, random.integers(0, 256, (4096, 64), dtype=np.uint8)
    parts = random.integers(-30, 31, (4096, 16), dtype=np.int8)
    q6 = b"".join(a.tobytes() + b.tobytes() + s.tobytes() + scale for a, b, s in zip(low, high, parts))
    types = {"F32": (0, 1, 4, POOL["F32"]), "F16": (1, 1, 2, POOL["F16"]), "Q4_K": (12, 256, 144, q4),
             "Q6_K": (14, 256, 210, q6)}

    def string(text):
        return struct.pack("<Q", len(text)) + text.encode()

    entries, sizes, offset = b"", [], 0
    for name, (dtype, shape, _) in tensors.items():
        kind = kinds.get(name, "F32" if len(shape) == 1 or "modulation" in name else dtype)
        number, block, block_bytes, _ = types[kind]
        count = int(np.prod(shape)) // block * block_bytes
        entries += string(name) + struct.pack("<I", len(shape))
        entries += struct.pack(f"<{len(shape)}Q", *reversed(shape)) + struct.pack("<IQ", number, offset)
        sizes.append((kind, count))
        offset += count + -count % 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 1) + string("general.architecture")
    head += struct.pack("<I", 8) + string("wan") + entries
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".part", "wb") as file:
        file.write(head + bytes(-len(head) % 32))
        for kind, count in sizes:
            write_values(file, count, types[kind][3])
            file.write(bytes(-count % 32))
    os.rename(path + ".part", path)


def linear(name, outputs, inputs, dtype="F16"):
    return {name + ".weight": (dtype, [outputs, inputs], None), name + ".bias": ("F16", [outputs], None)}


def transformer(layers):
    """In the original names; all weights in halves."""
    t = {"patch_embedding.weight": ("F16", [WIDTH, 16, 1, 2, 2], None), "patch_embedding.bias": ("F16", [WIDTH], None)}
    for name, outputs, inputs in (("text_embedding.0", WIDTH, TEXT), ("text_embedding.2", WIDTH, WIDTH),
                                  ("time_embedding.0", WIDTH, FREQUENCIES), ("time_embedding.2", WIDTH, WIDTH),
                                  ("time_projection.1", 6 * WIDTH, WIDTH), ("head.head", 64, WIDTH)):
        t |= linear(name, outputs, inputs)
    t["head.modulation"] = ("F16", [1, 2, WIDTH], None)
    for block in range(layers):
        p = f"blocks.{block}."
        t[p + "modulation"] = ("F16", [1, 6, WIDTH], None)
        for norm in ("norm3.weight", "norm3.bias", "self_attn.norm_q.weight", "self_attn.norm_k.weight",
                     "cross_attn.norm_q.weight", "cross_attn.norm_k.weight"):
            t[p + norm] = ("F16", [WIDTH], None)
        for name in LINEARS:
            t |= linear(p + name, HIDDEN if name == "ffn.0" else WIDTH, HIDDEN if name == "ffn.2" else WIDTH)
    return t


def with_linears(tensors, encode):
    """The same with what `encode` makes of the weight of each linear in a block."""
    result = {}
    for name, tensor in tensors.items():
        if name.startswith("blocks.") and name.endswith(".weight") and len(tensor[1]) == 2:
            result |= encode(name[:-len(".weight")], *tensor[1])
        else:
            result[name] = tensor
    return result


def note(text):
    return ("U8", [len(text)], text.encode())


def fp8(name, outputs, inputs):
    scale = ("F32", [], np.float32(0.01).tobytes())
    return {name + ".weight": ("F8_E4M3", [outputs, inputs], None), name + ".scale_weight": scale}


def int8(name, outputs, inputs):
    return {name + ".weight": ("I8", [outputs, inputs], None),
            name + ".weight_scale": ("F32", [outputs, 1], np.full(outputs, 3e-4, "<f4").tobytes()),
            name + ".comfy_quant": note('{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 256}')}


def w4a8(name, outputs, inputs):
    codebook = np.linspace(-1.5, 1.5, 16).astype("<f4").tobytes()
    relative = np.full(outputs * inputs // 16, 0x68, "u1").tobytes()  # 64 in E4M3
    return {name + ".weight": ("I8", [outputs, inputs // 2], None), name + ".weight_codebook": ("F32", [16], codebook),
            name + ".weight_s_rel": ("F8_E4M3", [outputs, inputs // 16], relative),
            name + ".weight_s_channel": ("F32", [outputs], np.full(outputs, 4e-4, "<f4").tobytes()),
            name + ".comfy_quant": note('{"format": "asym_w4a8_int8"}')}


def adapter(tensors, rank):
    """A LoRA on all linears of the blocks, in ComfyUI's names."""
    t = {}
    for name, (_, shape, _) in tensors.items():
        if name.startswith("blocks.") and name.endswith(".weight") and len(shape) == 2:
            module = "diffusion_model." + name[:-len(".weight")]
            t[module + ".lora_down.weight"] = ("F16", [rank, shape[1]], None)
            t[module + ".lora_up.weight"] = ("F16", [shape[0], rank], None)
            t[module + ".alpha"] = ("F32", [], np.float32(rank / 16).tobytes())
    return t


def diffusers_name(name):
    for old, new in TO_DIFFUSERS:
        start = len("blocks.") + name[len("blocks."):].find(".") + 1 if name.startswith("blocks.") else 0
        if name[start:].startswith(old):
            return name[:start] + new + name[start + len(old):]
    return name


def header_of(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header


def autoencoder(model):
    """The bundled one's tensors with the released number of channels."""
    t = {}
    for name, entry in header_of(f"{model}/vae/diffusion_pytorch_model.safetensors").items():
        shape = list(entry["shape"])
        fixed = {"encoder.conv_in": (1,), "encoder.conv_out": (0,), "decoder.conv_in": (1,), "decoder.conv_out": (0,),
                 "quant_conv": (0, 1), "post_quant_conv": (0, 1)}.get(name.rsplit(".", 1)[0], ())
        for axis in range(min(len(shape), 2)):
            if axis not in fixed and shape[axis] >= 8:
                shape[axis] *= VAE_FACTOR
        t[name] = ("F16", shape, None)
    return t


def text_encoder(layers):
    t = {"shared.weight": ("F16", [256384, TEXT], None), "encoder.final_layer_norm.weight": ("F16", [TEXT], None)}
    for block in range(layers):
        p = f"encoder.block.{block}.layer."
        for name in "qkvo":
            t[p + f"0.SelfAttention.{name}.weight"] = ("F16", [TEXT, TEXT], None)
        t[p + "0.SelfAttention.relative_attention_bias.weight"] = ("F16", [32, 64], None)
        for name, shape in (("wi_0", [10240, TEXT]), ("wi_1", [10240, TEXT]), ("wo", [TEXT, 10240])):
            t[p + f"1.DenseReluDense.{name}.weight"] = ("F16", shape, None)
        for norm in (0, 1):
            t[p + f"{norm}.layer_norm.weight"] = ("F16", [TEXT], None)
    return t


def text_encoder_fp8(layers, model):
    t = {}
    for name, (dtype, shape, data) in text_encoder(layers).items():
        if "SelfAttention.relative" in name or len(shape) == 1:
            t[name] = (dtype, shape, data)
        elif name == "shared.weight":
            t[name] = ("F8_E4M3", shape, None)
        else:
            t |= fp8(name[:-len(".weight")], *shape)
    with open(f"{model}/tokenizer/spiece.model", "rb") as file:
        pieces = file.read()
    t["spiece_model"] = ("U8", [len(pieces)], pieces)
    return t | {"scaled_fp8": ("F8_E4M3", [0], b"")}


def config(model, network, **changes):
    with open(f"{model}/{network}/config.json") as file:
        return json.dumps(json.load(file) | changes, indent=2)


def write_diffusers(model, out, layers, text_layers):
    """The transformer in two shards."""
    tensors = {diffusers_name(name): tensor for name, tensor in transformer(layers).items()}
    names = list(tensors)
    shards = [names[:len(names) // 2], names[len(names) // 2:]]
    index = {"metadata": {}, "weight_map": {}}
    for number, part in enumerate(shards, 1):
        file = f"diffusion_pytorch_model-{number:05d}-of-00002.safetensors"
        write_safetensors(f"{out}/transformer/{file}", {name: tensors[name] for name in part})
        index["weight_map"] |= {name: file for name in part}
    with open(f"{out}/transformer/diffusion_pytorch_model.safetensors.index.json", "w") as file:
        json.dump(index, file)
    write_safetensors(f"{out}/text_encoder/model.safetensors", text_encoder(text_layers))
    write_safetensors(f"{out}/vae/diffusion_pytorch_model.safetensors", autoencoder(model))
    for network, changes in (
            ("transformer", dict(num_attention_heads=12, attention_head_dim=128, text_dim=TEXT, ffn_dim=HIDDEN,
                                 num_layers=layers, text_len=512)),
            ("text_encoder", dict(d_model=TEXT, d_ff=10240, num_heads=64, num_layers=text_layers, vocab_size=256384)),
            ("vae", dict(base_dim=96))):
        with open(f"{out}/{network}/config.json", "w") as file:
            file.write(config(model, network, **changes))
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(f"{model}/{part}", f"{out}/{part}", dirs_exist_ok=True)
    shutil.copy(f"{model}/model_index.json", out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--text-layers", type=int, default=2)
    a = parser.parse_args()
    base, single = f"{a.out}/diffusers", f"{a.out}/single"
    write_diffusers(a.model, base, a.layers, a.text_layers)
    plain = transformer(a.layers)
    kinds = {name: "Q6_K" if name.endswith((".v.weight", "ffn.2.weight")) else "Q4_K" for name, (_, shape, _)
             in plain.items() if name.startswith("blocks.") and len(shape) == 2}
    marker = {"scaled_fp8": ("F8_E4M3", [2], bytes(2))}
    prefixed = {"model.diffusion_model." + name: tensor for name, tensor in (with_linears(plain, fp8) | marker).items()
                if name != "scaled_fp8"} | marker
    write_safetensors(f"{single}/fp8-scaled.safetensors", prefixed)
    write_safetensors(f"{single}/int8-convrot.safetensors", with_linears(plain, int8))
    write_safetensors(f"{single}/w4a8.safetensors", with_linears(plain, w4a8))
    write_gguf(f"{single}/q4_k_m.gguf", plain, kinds)
    write_safetensors(f"{single}/umt5-fp8-scaled.safetensors", text_encoder_fp8(a.text_layers, a.model))
    write_safetensors(f"{a.out}/lora.safetensors", adapter(plain, 32))

    def files(name):
        return ["--transformer", f"{single}/{name}", "--text-encoder", f"{single}/umt5-fp8-scaled.safetensors",
                "--vae", f"{base}/vae/diffusion_pytorch_model.safetensors"]

    lora = ["--lora", f"{a.out}/lora.safetensors:0.5"]
    layouts = {
        "diffusers, half, two shards": ["-m", base, "--storage", "half"],
        "the same + LoRA merged": ["-m", base, "--storage", "half"] + lora,
        "the same, --weights 8": ["-m", base, "--weights", "8"],
        "ComfyUI, fp8 scaled": files("fp8-scaled.safetensors") + ["--storage", "half"],
        "INT8 ConvRot": files("int8-convrot.safetensors"),
        "INT8 ConvRot + LoRA beside it": files("int8-convrot.safetensors") + lora,
        "W4A8 (asym_w4a8_int8)": files("w4a8.safetensors"),
        "GGUF Q4_K_M": files("q4_k_m.gguf") + ["--storage", "half"],
        "GGUF Q4_K_M, --weights 8": files("q4_k_m.gguf") + ["--weights", "8"],
    }
    with open(f"{a.out}/layouts.json", "w") as file:
        json.dump(layouts, file, indent=2)


if __name__ == "__main__":
    main()
