"""Text to video on any Vulkan 1.2 device.

    import quantsparse
    frames = quantsparse.generate("samples/models/shapes-tiny", "a red circle moves left")  # uint8 [frames, h, w, 3]

`Generator` keeps a model open, and hands out progress, previews and frames while it works.
"""
from __future__ import annotations

import ctypes as c
import os
import threading
from dataclasses import dataclass
from typing import Callable, Iterable, Sequence

import numpy as np

from . import _native as native
from ._native import Cancelled, QuantsparseError

__all__ = ["Cancel", "Cancelled", "Device", "Generator", "MemoryPlan", "ModelInfo", "Progress", "QuantsparseError",
           "devices", "generate", "version"]

SAMPLERS = ("unipc", "dpmpp", "euler", "lcm", "ddim", "dmd", "rcm")
FEW_STEPS = ("lightx2v-4", "fastwan-3", "turbo-4")
ARITHMETIC = ("portable", "dot", "matrix")
STORAGE = ("fp32", "half")
ATTENTION = ("dense", "sparse")
ATTENTION_ARITHMETIC = ("full", "int8-qk", "int8")
RESIDUAL = ("half", "int8", "int4")
RNG = ("philox", "torch")
TARGETS = ("both", "high", "low")


def _choice(value: str | None, words: Sequence[str], name: str, first: int = 1) -> int:
    """The number of a word, counted from `first`; 0 for None."""
    if value is None:
        return 0
    if value not in words:
        raise ValueError(f"{name} '{value}' is not one of {', '.join(words)}")
    return words.index(value) + first


def version() -> str:
    """Of the library."""
    return native.library().qs_version_string().decode()


@dataclass(frozen=True)
class Device:
    """A device as the driver describes it; `note` says why it is the default, or why it is not usable."""
    index: int
    name: str
    driver: str
    uuid: str
    kind: str
    note: str
    memory_bytes: int
    usable: bool
    is_default: bool


def devices() -> list[Device]:
    """All devices, usable or not. Raises QuantsparseError where there is no Vulkan driver."""
    handle = c.c_void_p()
    native.call("qs_device_list_create", c.byref(handle))
    try:
        found = []
        for i in range(native.library().qs_device_list_count(handle)):
            info = native.DeviceInfo()
            native.call("qs_device_list_get", handle, c.c_size_t(i), c.byref(info))
            found.append(Device(info.index, *(getattr(info, k).decode() for k in ("name", "driver", "uuid", "kind", "note")),
                                info.memory_bytes, bool(info.usable), bool(info.is_default)))
        return found
    finally:
        native.library().qs_device_list_destroy(handle)


class Cancel:
    """Stops work that was given it; `request` may be called from any thread."""

    def __init__(self) -> None:
        self._handle = c.c_void_p(native.library().qs_cancel_create())
        if not self._handle:
            raise MemoryError("no memory for a cancel token")

    def request(self) -> None:
        native.library().qs_cancel_request(self._handle)

    def reset(self) -> None:
        native.library().qs_cancel_reset(self._handle)

    @property
    def requested(self) -> bool:
        return bool(native.library().qs_cancel_requested(self._handle))

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            native.library().qs_cancel_destroy(self._handle)


@dataclass(frozen=True)
class Progress:
    stage: str  # "load", "text", "denoise", "decode"
    done: int
    total: int
    elapsed_seconds: float
    remaining_seconds: float | None  # of this stage


@dataclass(frozen=True)
class ModelInfo:
    """What a clip is where nothing is asked."""
    architecture: str
    quantization: str
    width: int
    height: int
    frames: int
    fps: float
    steps: int
    guidance_scale: float
    flow_shift: float
    sampler: str


@dataclass(frozen=True)
class MemoryPlan:
    peak_bytes: int
    budget_bytes: int  # 0: unknown
    least_bytes: int
    fits: bool
    decision: str
    stages: dict[str, int]  # bytes on the device


def _array(picture: native.Picture) -> np.ndarray:
    shape = (picture.height, picture.width, 3)
    return np.ctypeslib.as_array(picture.rgb, shape).copy()


class Generator:
    """A model on a device. To be used by one thread at a time; `close` (or `with`) frees it.

    `model` is a folder or a file of quantsparse-calibrate; `transformer`, `text_encoder`, `vae`, `tokenizer` stand in the
    place of its parts. `log(message)` gets one line about whatever files hold that is not used, or that is done
    differently from what was asked.
    """

    def __init__(self, model: str | os.PathLike | None = None, *, device: str | int | None = None,
                 arithmetic: str | None = None, memory_limit: int = 0, storage: str | None = None, weight_bits: int = 0,
                 transformer: str | os.PathLike | None = None, text_encoder: str | os.PathLike | None = None,
                 vae: str | os.PathLike | None = None, tokenizer: str | os.PathLike | None = None,
                 log: Callable[[str], None] | None = None) -> None:
        self._device, self._generator = c.c_void_p(), c.c_void_p()
        self._lock = threading.Lock()
        # Kept for as long as the library may call it.
        self._log = native.LOG_FN((lambda _user, _level, line: log(line.decode(errors="replace"))) if log else 0)
        options = native.DeviceOptions(selector=native.text(None if device is None else str(device)),
                                       arithmetic=_choice(arithmetic, ARITHMETIC, "arithmetic"), memory_limit=memory_limit)
        native.call("qs_device_open", c.byref(options), c.byref(self._device))
        parts = {"model": model, "transformer": transformer, "text_encoder": text_encoder, "vae": vae, "tokenizer": tokenizer}
        options = native.GeneratorOptions(storage=_choice(storage, STORAGE, "storage"), weight_bits=weight_bits,
                                          log=self._log, **{k: native.text(v) for k, v in parts.items()})
        try:
            native.call("qs_generator_create", self._device, c.byref(options), c.byref(self._generator))
        except QuantsparseError:
            self.close()
            raise

    def close(self) -> None:
        native.library().qs_generator_destroy(self._generator)
        native.library().qs_device_destroy(self._device)
        self._generator, self._device = c.c_void_p(), c.c_void_p()

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_device", None):
            self.close()

    @property
    def info(self) -> ModelInfo:
        i = native.ModelInfo()
        native.call("qs_generator_get_model_info", self._generator, c.byref(i))
        return ModelInfo(i.architecture.decode(), i.quantization.decode(), i.width, i.height, i.frames, i.fps, i.steps,
                         i.guidance_scale, i.flow_shift, SAMPLERS[i.sampler - 1])

    def plan(self, prompt: str = "", **parameters) -> MemoryPlan:
        """What `generate` with the same arguments takes; nothing is allocated."""
        clip, _kept = _generation(prompt, **parameters)
        handle, memory = c.c_void_p(), native.Memory()
        native.call("qs_plan_create", self._generator, c.byref(clip), c.byref(handle))
        try:
            native.call("qs_plan_get_memory", handle, c.byref(memory))
            stages = {}
            for i in range(native.library().qs_plan_stage_count(handle)):
                s = native.StageMemory()
                native.call("qs_plan_get_stage", handle, c.c_size_t(i), c.byref(s))
                stages[s.stage.decode()] = s.weight_bytes + s.activation_bytes + s.residual_bytes + s.staging_bytes
            return MemoryPlan(memory.peak_bytes, memory.budget_bytes, memory.least_bytes, bool(memory.fits),
                              memory.decision.decode(), stages)
        finally:
            native.library().qs_plan_destroy(handle)

    def generate(self, prompt: str, *, progress: Callable[[Progress], None] | None = None,
                 preview: Callable[[np.ndarray, int], None] | None = None, preview_interval: int = 1,
                 cancel: Cancel | None = None, **parameters) -> np.ndarray:
        """The clip's frames, uint8 [frames, height, width, 3].

        Blocks; other Python threads go on. Raises Cancelled after `cancel.request()`, QuantsparseError with the field at
        fault, and whatever a callback raised. `preview(picture, step)` gets the first frame as the clip is heading.
        Parameters, None or 0 meaning the model's own: negative_prompt, width, height, frames, seed, rng, steps, sampler,
        guidance_scale (1: none), flow_shift, timesteps, few_steps, step_cache, loras ((file, strength[, target]) each),
        attention ("sparse"), attention_arithmetic, density, dense_layers, refreshes, residual.
        """
        frames: list[np.ndarray] = []
        raised: list[BaseException] = []
        cancel = cancel or Cancel()

        def guarded(work: Callable[[], None]) -> None:
            try:
                work()
            except BaseException as error:  # nothing may pass through C
                raised.append(error)
                cancel.request()

        def on_progress(_user, p) -> None:
            p = p.contents
            left = p.remaining_seconds if p.remaining_seconds >= 0 else None
            guarded(lambda: progress(Progress(p.stage.decode(), p.done, p.total, p.elapsed_seconds, left)))

        callbacks = native.Callbacks(
            progress=native.PROGRESS_FN(on_progress if progress else 0),
            preview=native.PICTURE_FN((lambda _u, p, step: guarded(lambda: preview(_array(p.contents), step)))
                                      if preview else 0),
            preview_interval=preview_interval if preview else 0,
            frame=native.PICTURE_FN(lambda _u, p, _i: guarded(lambda: frames.append(_array(p.contents)))),
            cancel=cancel._handle)
        clip, _kept = _generation(prompt, **parameters)
        try:
            with self._lock:
                native.call("qs_generate", self._generator, c.byref(clip), c.byref(callbacks), None)
        except Cancelled:
            if not raised:
                raise
        if raised:
            cancel.reset()
            raise raised[0]
        return np.stack(frames)


def _generation(prompt: str, *, negative_prompt: str | None = None, width: int = 0, height: int = 0, frames: int = 0,
                seed: int = 0, rng: str | None = None, steps: int = 0, sampler: str | None = None,
                guidance_scale: float = 0, flow_shift: float = 0, timesteps: Iterable[float] = (),
                few_steps: str | None = None, step_cache: float = 0, loras: Iterable[tuple] = (),
                attention: str | None = None, attention_arithmetic: str | None = None, density: float = 0,
                dense_layers: int = 0, refreshes: int = 0, residual: str | None = None):
    """The struct, and what it points to."""
    times = list(timesteps)
    times = (c.c_double * len(times))(*times)
    adapters = [native.Lora(file=native.text(file), strength=strength,
                            target=_choice(rest[0] if rest else None, TARGETS, "target", 0))
                for file, strength, *rest in loras]
    adapters = (native.Lora * len(adapters))(*adapters)
    clip = native.Generation(
        prompt=prompt.encode(), negative_prompt=native.text(negative_prompt), width=width, height=height, frames=frames,
        seed=seed, rng=_choice(rng, RNG, "rng", 0), steps=steps, sampler=_choice(sampler, SAMPLERS, "sampler"),
        guidance_scale=guidance_scale, flow_shift=flow_shift, timestep_count=len(times),
        few_steps=_choice(few_steps, FEW_STEPS, "few_steps"), step_cache=step_cache, lora_count=len(adapters),
        attention=_choice(attention, ATTENTION, "attention"),
        attention_arithmetic=_choice(attention_arithmetic, ATTENTION_ARITHMETIC, "attention_arithmetic", 0),
        density=density, dense_layers=dense_layers, refreshes=refreshes, residual=_choice(residual, RESIDUAL, "residual"))
    if len(times):
        clip.timesteps = times
    if len(adapters):
        clip.loras = adapters
    return clip, (times, adapters)


def generate(model: str | os.PathLike, prompt: str, *, device: str | int | None = None, **parameters) -> np.ndarray:
    """One clip, uint8 [frames, height, width, 3]; the parameters are those of Generator.generate."""
    with Generator(model, device=device) as generator:
        return generator.generate(prompt, **parameters)
