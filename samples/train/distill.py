"""Stages distill and correct: the low-rank additions with which few steps without guidance do what many guided do.

At the start of each segment (`segments.py`) the student learns the velocity that leads to the segment's end in one
Euler step. The loss is the squared error of the state after that step. Stage distill takes the states from the
teacher's trajectories alone; stage correct adds states that the student itself got to.
"""
from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import stateless

import lora
from bundle import Bundle
from config import DistillStage
from nets.dit import Dit
from sample import few_step_sigmas
from segments import KINDS, Segments
from store import CsvLog, load, save
from train_dit import schedule, tokens

CHECKPOINT = "distill.pt"
LORA_NAME = "lora-4-steps.safetensors"


def trained_student(base: Bundle, workdir: Path) -> Dit:
    """The base model with the averaged additions of the last checkpoint."""
    state = load(workdir / CHECKPOINT)
    if state is None:
        raise FileNotFoundError(f"no '{workdir / CHECKPOINT}'; run stage distill first")
    dit = deepcopy(base.dit)
    lora.merge(dit, state["ema"])
    return dit


def loss_of(base: Bundle, factors: lora.Factors, x: Tensor, v: Tensor, at: list[int],
            captions: list[str]) -> tuple[Tensor, np.ndarray]:
    """Mean squared error of the states after the step, and the mean squared errors of the velocities [n].

    x and v [n, 16, f, h, w] belong to the segments `at` [n].
    """
    sigmas = torch.from_numpy(few_step_sigmas()).float().to(x.device)
    with torch.no_grad():
        states = base.text(*(t.to(x.device) for t in tokens(base.tok, captions)))
    weights = lora.merged(base.dit, factors)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        y = stateless.functional_call(base.dit, weights, (x, sigmas[at] * 1000, states))
    errors = (y.float() - v).square().flatten(1).mean(dim=1)
    width = sigmas[at] - sigmas[[i + 1 for i in at]]
    return (errors * width.square()).mean(), errors.detach().cpu().numpy()


class Student:
    """Factors in training, their running average, the optimiser; `state` is what a checkpoint holds."""

    def __init__(self, base: Bundle, rank: int, state: dict | None, device: str) -> None:
        start = state["factors"] if state else lora.fresh(base.dit, rank)
        self.ema = state["ema"] if state else {n: tuple(t.clone() for t in pair) for n, pair in start.items()}
        self.factors = {n: tuple(t.to(device).requires_grad_() for t in pair) for n, pair in start.items()}
        self.weights = [t for pair in self.factors.values() for t in pair]
        self.optimiser = torch.optim.Adam(self.weights, betas=(0.9, 0.99))
        if state:
            self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"] if state else 0
        self.seconds = state["seconds"] if state else 0.0

    def learn(self, loss: Tensor, rate: float) -> float:
        """One step; returns the gradient's norm."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.weights, 1.0).item()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.step += 1
        keep = min(0.99, 1 - 10 / (self.step + 10))
        for n, pair in self.factors.items():
            for average, t in zip(self.ema[n], pair):
                average.lerp_(t.detach().cpu(), 1 - keep)
        return norm

    def state(self) -> dict:
        return {"factors": {n: tuple(t.detach().cpu() for t in pair) for n, pair in self.factors.items()},
                "ema": self.ema, "optimiser": self.optimiser.state_dict(), "step": self.step, "seconds": self.seconds}


class Log:
    """Means between two rows of distill.csv: loss and, per segment, the velocity's error; a row per kind and size."""

    def __init__(self, path: Path, segments: int) -> None:
        self.csv = CsvLog(path, ["step", "seconds", "kind", "size", "loss", *(f"error{i}" for i in range(segments)),
                                 "grad", "lr"])
        self.sums: dict[tuple[str, str], np.ndarray] = {}
        self.segments = segments

    def add(self, kind: str, size: str, loss: float, norm: float, at: list[int], errors: np.ndarray) -> None:
        count = np.bincount(at, minlength=self.segments)
        row = [1, loss, norm, *np.bincount(at, errors, self.segments), *count]
        self.sums[kind, size] = self.sums.get((kind, size), 0) + np.array(row)

    def write(self, step: int, seconds: float, rate: float) -> None:
        for (kind, size), v in sorted(self.sums.items()):
            errors = v[3:3 + self.segments] / np.maximum(v[3 + self.segments:], 1)
            self.csv.row(step, seconds, kind, size, float(v[1] / v[0]), *map(float, errors), float(v[2] / v[0]), rate)
        self.sums.clear()


def distill(workdir: Path, base: Bundle, level: str, stage: DistillStage, own_states: bool, device: str) -> None:
    """Trains to the end of the last phase with `own_states`, else to the end of the one before."""
    if not own_states:
        stage = replace(stage, phases=stage.phases[:-1])
    s = Student(base, stage.rank, load(workdir / CHECKPOINT), device)
    start = time.monotonic() - s.seconds
    count = len(few_step_sigmas()) - 1
    log = Log(workdir / "distill.csv", count)
    data: dict[tuple[str, str], Segments] = {}
    while True:
        phase, factor, left = schedule(stage, s.step)
        if phase is None:
            return
        rng = np.random.default_rng((17, s.step))
        size = str(rng.choice(list(phase.mix), p=np.array(list(phase.mix.values())) / sum(phase.mix.values())))
        kind = KINDS[int(own_states and rng.random() < stage.own_states)]
        if (kind, size) not in data:
            data[kind, size] = Segments(workdir, kind, level, size)
        elif s.step % 50 == 0:
            for d in data.values():
                d.refresh()
        at = [(i + s.step) % count for i in range(stage.trajectories[size].batch)]
        x, v, captions = data[kind, size].batch(rng, at)
        loss, errors = loss_of(base, s.factors, x.to(device), v.to(device), at, captions)
        norm = s.learn(loss, stage.lr * factor)
        s.seconds = time.monotonic() - start
        log.add(kind, size, loss.item(), norm, at, errors)
        if s.step % stage.save_every == 0 or left == 1:
            log.write(s.step, s.seconds, stage.lr * factor)
            save(s.state(), workdir / CHECKPOINT)
            if left == 1:
                save(s.state(), workdir / f"distill-{s.step}.pt")  # the stage's end, kept


def write_lora(workdir: Path, out: Path) -> Path:
    """The averaged additions of the last checkpoint as a file."""
    path = out / LORA_NAME
    lora.write(load(workdir / CHECKPOINT)["ema"], path)
    return path
