"""Transformers that were trained with sparse-linear attention (TurboDiffusion), and ones that hold a part of it.

usage: sparse_linear.py MODEL OUT

Each block has a projection of its linear branch, proj_l. One that was trained with it is nothing without; projections
of next to nothing leave the plain attention where all blocks are chosen, as they are in a clip of so few tokens.
"""
import sys

import numpy as np

import stfile

LAYERS, HEAD = 6, 64


def main(model, out):
    t = stfile.read(f"{model}/{stfile.NETWORKS['transformer']}")

    rng = np.random.default_rng(0)

    def faint(*shape):
        return stfile.from_f32(rng.normal(0, 1e-5, shape), "F32")

    def projections(blocks, width=HEAD):
        names = [f"blocks.{i}.self_attn.attn_op.local_attn.proj_l" for i in blocks]
        return {f"{n}.weight": faint(width, width) for n in names} | {f"{n}.bias": faint(width) for n in names}

    def put(label, extra, base=t):
        stfile.copy_model(model, f"{out}/{label}", transformer={**base, **extra})

    put("faint", projections(range(LAYERS)))
    put("gap", projections(i for i in range(LAYERS) if i != 4))
    put("one_block", projections([2]))
    put("wide", projections(range(LAYERS), 2 * HEAD))
    no_bias = {k: v for k, v in projections(range(LAYERS)).items() if not k.endswith("3.self_attn.attn_op.local_attn.proj_l.bias")}
    put("no_bias", no_bias)
    dtype, shape, data = t["patch_embedding.weight"]
    linear = {"patch_embedding.weight": (dtype, [shape[0], int(np.prod(shape[1:]))], data)}
    put("linear_patches", projections(range(LAYERS)) | linear)
    stfile.expect(out, faint="runs", linear_patches="runs", gap=("says", "blocks.4"), one_block=("says", "blocks.0"),
                  wide=("says", "proj_l"), no_bias=("says", "blocks.3"))


if __name__ == "__main__":
    main(*sys.argv[1:3])
