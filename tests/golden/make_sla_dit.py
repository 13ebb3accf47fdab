"""Makes the golden case wan-dit-sla: a whole transformer whose self-attention is sparse-linear.

usage: make_sla_dit.py TURBODIFFUSION OUT

TURBODIFFUSION: a checkout of thu-ml/TurboDiffusion, commit aaecff5, whose module computes the self-attention
(make_sla.py); OUT: the case's folder. All else is samples/train/nets/dit.py, which must first reproduce the case
wan-dit-plain of the original code.
"""
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch

import make_sla

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "samples/train"))
from config import DitConfig  # noqa: E402
from nets import dit  # noqa: E402

TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
PROJECTION = "self_attn.attn_op.local_attn.proj_l"
RUNS = (("best", 0.4), ("all", 1.0))


def read(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        blob = file.read()
    tensors = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        begin, end = about["data_offsets"]
        values = np.frombuffer(blob[begin:end], TYPES[about["dtype"]]).reshape(about["shape"])
        if about["dtype"] == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = torch.from_numpy(values.astype(np.float32))
    return tensors


def config_of(values):
    return DitConfig(**{key: value for key, value in values.items() if key in DitConfig.__dataclass_fields__})


def check_network():
    """The plain transformer against the original code's."""
    folder = ROOT / "tests/golden/data/wan-dit-plain"
    case, io = json.loads((folder / "case.json").read_text()), read(folder / "io.safetensors")
    network = dit.Dit(config_of(case["config"]))
    network.load_state_dict(read(folder / "model.safetensors"))
    with torch.no_grad():
        ours = network(io["r0.in.latent"][None], io["r0.in.timestep"], io["r0.in.context"][None])[0]
    error = (ours - io["r0.out.velocity"]).norm() / io["r0.out.velocity"].norm()
    assert error < 1e-5, error


def attend(core, topk, gaps):
    """A self-attention's forward with TurboDiffusion's operator of 128 queries and 64 keys."""
    def forward(self, x, source, rope):
        b, n, d = x.shape
        q, k, v = (y.reshape(b, n, self.heads, -1) for y in
                   (self.norm_q(self.q(x)), self.norm_k(self.k(x)), self.v(x)))
        q, k = dit.rotate(q, *rope), dit.rotate(k, *rope)
        module = core.SparseLinearAttention(d // self.heads, topk, BLKQ=128, BLKK=64)
        module.dtype, module.proj_l = torch.float32, self.proj_l
        means = [core.get_block_map.__globals__["mean_pool"](y.transpose(1, 2), size)
                 for y, size in ((q, 128), (k - k.mean(1, keepdim=True), 64))]
        scores = (means[0] @ means[1].transpose(-1, -2)).sort(-1, descending=True).values
        kept = int(topk * scores.shape[-1])
        if kept < scores.shape[-1]:
            gaps.append(float((scores[..., kept - 1] - scores[..., kept]).min() / scores.std()))
        return self.o(module(q, k, v).reshape(b, n, d))
    return forward


def main(checkout, out):
    check_network()
    core = make_sla.module_of(checkout)
    config = DitConfig(dim=64, ffn_dim=96, num_heads=2, num_layers=2, text_dim=24, freq_dim=32, text_len=8)
    torch.manual_seed(5)
    network = dit.Dit(config)
    for name, p in network.named_parameters():
        if name.endswith("weight") and p.dim() > 1:
            torch.nn.init.normal_(p, std=1.2 / math.sqrt(p[0].numel()))
        elif name.endswith("bias"):
            torch.nn.init.normal_(p, std=0.1)
    for block in network.blocks:
        projection = torch.nn.Linear(32, 32)
        torch.nn.init.normal_(projection.weight, std=0.3)
        torch.nn.init.normal_(projection.bias, std=0.1)
        block.self_attn.proj_l = projection
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(p.half().float())
    latent = torch.randn(16, 5, 16, 18).cumsum(1).half().float() / 2
    context, timestep = torch.randn(6, 24).half().float(), torch.tensor([700.0])
    io, runs, gaps = {}, [], []
    for name, topk in RUNS:
        for block in network.blocks:
            block.self_attn.forward = attend(core, topk, gaps).__get__(block.self_attn)
        with torch.no_grad():
            velocity = network(latent[None], timestep, context[None])[0]
        io |= {f"{name}.in.latent": latent, f"{name}.in.context": context, f"{name}.in.timestep": timestep,
               f"{name}.out.velocity": velocity.contiguous()}
        runs.append({"id": name, "timestep": 700.0, "context_tokens": 6, "latent_shape": list(latent.shape),
                     "tokens": 360, "topk": topk})
    assert min(gaps) > 1e-3, f"the choice is too close to call: {min(gaps)}"
    print("smallest distance of the last block that is kept to the next, in deviations:", min(gaps))
    weights = {name.replace("self_attn.proj_l", PROJECTION): p.data.half() for name, p in network.named_parameters()}
    os.makedirs(out, exist_ok=True)
    make_sla.write(f"{out}/model.safetensors", weights)
    make_sla.write(f"{out}/io.safetensors", io)
    fields = ("in_dim", "out_dim", "dim", "ffn_dim", "num_heads", "num_layers", "text_dim", "freq_dim", "text_len")
    case = {"kind": "wan-dit", "purpose": "transformer trained with sparse-linear attention: its own choice of blocks, "
            "softmax over them, linear branch through proj_l; all blocks and a part",
            "references": "thu-ml/TurboDiffusion aaecff5, turbodiffusion/SLA for the self-attention; the rest as "
            "wan-dit-plain, in fp32",
            "config": {key: getattr(config, key) for key in fields}, "weights_dtype": "F16",
            "weights": ["model.safetensors"], "io": "io.safetensors", "runs": runs,
            "tolerance": {"fp32": {"rel_l2": 2e-5, "max_abs": 1e-4},
                          "fp16_storage": {"rel_l2": 0.004, "max_abs": 0.02}}}
    with open(f"{out}/case.json", "w") as file:
        json.dump(case, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
