"""Makes the golden case sla-attention with the public module of TurboDiffusion.

usage: make_sla.py TURBODIFFUSION OUT

TURBODIFFUSION: a checkout of thu-ml/TurboDiffusion, commit aaecff5; OUT: the case's folder. The module's own code
computes block map, feature maps, linear branch and sum, in fp32 on the CPU; its two Triton kernels (the mean of a
block, attention over the listed blocks) are replaced by what they compute.
"""
import importlib
import json
import math
import os
import sys
import types
import warnings

import numpy as np
import torch

HEADS, DIM = 2, 64
RUNS = (dict(id="blocks128x64", tokens=300, topk=0.4, query_block=128, key_block=64),
        dict(id="blocks64x64", tokens=333, topk=0.34, query_block=64, key_block=64),
        dict(id="all", tokens=200, topk=1.0, query_block=64, key_block=64))


def module_of(checkout):
    """The package SLA without Triton."""
    triton, language = types.ModuleType("triton"), types.ModuleType("triton.language")
    triton.jit = lambda f: f
    triton.language = language
    language.constexpr = object
    sys.modules |= {"triton": triton, "triton.language": language}
    sys.path.insert(0, f"{checkout}/turbodiffusion")
    utils, core = importlib.import_module("SLA.utils"), importlib.import_module("SLA.core")

    def mean_pool(x, block):
        return torch.stack([part.float().mean(dim=2) for part in x.split(block, dim=2)], dim=2).to(x.dtype)

    class Attention:
        @staticmethod
        def apply(q, k, v, sparse_map, lut, topk, query_block, key_block):
            seen = sparse_map.bool().repeat_interleave(query_block, 2).repeat_interleave(key_block, 3)
            seen = seen[:, :, :q.shape[2], :k.shape[2]]
            scores = (q.double() @ k.double().transpose(-1, -2)) / math.sqrt(q.shape[-1])
            return (scores.masked_fill(~seen, -math.inf).softmax(-1) @ v.double()).to(v.dtype)

    utils.mean_pool = mean_pool
    core._attention = Attention
    return core


def main(checkout, out):
    warnings.simplefilter("ignore")  # no CUDA for autocast
    core = module_of(checkout)
    torch.manual_seed(0)
    tensors, runs = {}, []
    for run in RUNS:
        module = core.SparseLinearAttention(DIM, run["topk"], BLKQ=run["query_block"], BLKK=run["key_block"])
        module.dtype = torch.float32
        torch.nn.init.normal_(module.proj_l.weight, std=0.3)
        torch.nn.init.normal_(module.proj_l.bias, std=0.1)
        # Tokens drift slowly, so that blocks differ; and keys have a mean, which the map takes out.
        shape = (1, run["tokens"], HEADS, DIM)
        walk = [torch.randn(shape).cumsum(1) / 8 + torch.randn(shape) / 2 for _ in range(2)]
        q, k = ((x - x.mean(1, keepdim=True)).half().float() for x in walk)
        k = (k + 2 * torch.randn(1, 1, HEADS, DIM)).half().float()
        v = torch.randn(shape).half().float()
        with torch.no_grad():
            expected, density = module(q, k, v, return_sparsity=True)
            by_head = [x.transpose(1, 2).contiguous() for x in (q, k)]
            chosen, _, count = core.get_block_map(*by_head, topk_ratio=run["topk"], BLKQ=run["query_block"],
                                                  BLKK=run["key_block"])
        runs.append(run | {"blocks_of_a_row": count, "density": float(density)})
        for name, x in (("q", q), ("k", k), ("v", v)):
            tensors[f"{run['id']}.{name}"] = x[0].transpose(0, 1).contiguous().half()
        tensors[f"{run['id']}.proj_l.weight"] = module.proj_l.weight.data
        tensors[f"{run['id']}.proj_l.bias"] = module.proj_l.bias.data
        tensors[f"{run['id']}.map"] = chosen[0].to(torch.uint8)
        tensors[f"{run['id']}.out"] = expected[0].transpose(0, 1).contiguous()
    os.makedirs(out, exist_ok=True)
    write(f"{out}/io.safetensors", tensors)
    case = {"kind": "sla-attention", "purpose": "sparse-linear attention of checkpoints trained with it: block map, "
            "softmax over the listed blocks, linear branch through proj_l; partial last blocks",
            "references": "thu-ml/TurboDiffusion aaecff5, turbodiffusion/SLA, fp32; its Triton kernels replaced by "
            "what they compute",
            "config": {"num_heads": HEADS, "head_dim": DIM, "feature_map": "softmax", "softmax_scale": DIM ** -0.5},
            "layout": "q, k, v, out: [num_heads, tokens, head_dim]; map: [num_heads, query blocks, key blocks], 1: kept",
            "tolerance": {"fp32": {"rel_l2": 1.2e-5, "max_abs": 3.6e-5},
                          "fp16_storage": {"rel_l2": 0.002, "max_abs": 0.008}},
            "io": "io.safetensors", "runs": runs}
    with open(f"{out}/case.json", "w") as file:
        json.dump(case, file, indent=1)
        file.write("\n")


def write(path, tensors):
    names = {torch.float16: "F16", torch.float32: "F32", torch.uint8: "U8"}
    header, blobs, offset = {}, [], 0
    for name, tensor in tensors.items():
        data = np.ascontiguousarray(tensor.numpy()).tobytes()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        blobs.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + b"".join(blobs))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
