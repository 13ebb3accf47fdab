"""The C interface (quantsparse.h) by ctypes: structs, functions, and errors as exceptions."""
from __future__ import annotations

import ctypes as c
import ctypes.util
import os
from pathlib import Path
from typing import Any

LOG_FN = c.CFUNCTYPE(None, c.c_void_p, c.c_int, c.c_char_p)


class Sized(c.Structure):
    """Begins with its size, which the library's _init function sets."""

    def __init__(self, **values: Any) -> None:
        super().__init__()
        getattr(library(), f"{self.c_name}_init_sized")(c.byref(self), c.sizeof(self))
        for name, value in values.items():
            setattr(self, name, value)


def struct(name: str, *fields: tuple[str, Any]) -> type[Sized]:
    return type(name, (Sized,), {"c_name": name, "_fields_": [("size", c.c_size_t), *fields]})


Error = struct("qs_error", ("status", c.c_int), ("field", c.c_char * 64), ("message", c.c_char * 1024))
DeviceInfo = struct(
    "qs_device_info", ("index", c.c_int), ("name", c.c_char_p), ("driver", c.c_char_p), ("uuid", c.c_char_p),
    ("kind", c.c_char_p), ("note", c.c_char_p), ("memory_bytes", c.c_uint64), ("usable", c.c_int), ("is_default", c.c_int))
DeviceOptions = struct(
    "qs_device_options", ("selector", c.c_char_p), ("arithmetic", c.c_int), ("memory_limit", c.c_uint64),
    ("cache_directory", c.c_char_p), ("validation", c.c_int), ("log", LOG_FN), ("log_user", c.c_void_p))
GeneratorOptions = struct(
    "qs_generator_options", ("model", c.c_char_p), ("transformer", c.c_char_p), ("text_encoder", c.c_char_p),
    ("vae", c.c_char_p), ("tokenizer", c.c_char_p), ("storage", c.c_int), ("weight_bits", c.c_int), ("log", LOG_FN),
    ("log_user", c.c_void_p))
ModelInfo = struct(
    "qs_model_info", ("architecture", c.c_char_p), ("quantization", c.c_char_p), ("width", c.c_int), ("height", c.c_int),
    ("frames", c.c_int), ("fps", c.c_double), ("steps", c.c_int), ("guidance_scale", c.c_double),
    ("flow_shift", c.c_double), ("sampler", c.c_int))
Lora = struct("qs_lora", ("file", c.c_char_p), ("strength", c.c_double), ("target", c.c_int))
Generation = struct(
    "qs_generation", ("prompt", c.c_char_p), ("negative_prompt", c.c_char_p), ("width", c.c_int), ("height", c.c_int),
    ("frames", c.c_int), ("seed", c.c_uint64), ("rng", c.c_int), ("steps", c.c_int), ("sampler", c.c_int),
    ("guidance_scale", c.c_double), ("flow_shift", c.c_double), ("timesteps", c.POINTER(c.c_double)),
    ("timestep_count", c.c_size_t), ("few_steps", c.c_int), ("step_cache", c.c_double), ("loras", c.POINTER(Lora)),
    ("lora_count", c.c_size_t), ("attention", c.c_int), ("attention_arithmetic", c.c_int), ("density", c.c_double),
    ("dense_layers", c.c_int), ("refreshes", c.c_int), ("residual", c.c_int))
Memory = struct(
    "qs_memory", ("peak_bytes", c.c_uint64), ("budget_bytes", c.c_uint64), ("least_bytes", c.c_uint64), ("fits", c.c_int),
    ("decision", c.c_char_p))
StageMemory = struct(
    "qs_stage_memory", ("stage", c.c_char_p), ("weight_bytes", c.c_uint64), ("activation_bytes", c.c_uint64),
    ("residual_bytes", c.c_uint64), ("staging_bytes", c.c_uint64), ("host_bytes", c.c_uint64))
VideoInfo = struct(
    "qs_video_info", ("width", c.c_int), ("height", c.c_int), ("frames", c.c_int), ("fps", c.c_double),
    ("latent_channels", c.c_int), ("latent_frames", c.c_int), ("latent_height", c.c_int), ("latent_width", c.c_int))


class Progress(c.Structure):
    _fields_ = [("size", c.c_size_t), ("stage", c.c_char_p), ("done", c.c_int), ("total", c.c_int),
                ("elapsed_seconds", c.c_double), ("remaining_seconds", c.c_double)]


class Picture(c.Structure):
    _fields_ = [("size", c.c_size_t), ("width", c.c_int), ("height", c.c_int), ("rgb", c.POINTER(c.c_uint8))]


PROGRESS_FN = c.CFUNCTYPE(None, c.c_void_p, c.POINTER(Progress))
PICTURE_FN = c.CFUNCTYPE(None, c.c_void_p, c.POINTER(Picture), c.c_int)
Callbacks = struct(
    "qs_callbacks", ("user", c.c_void_p), ("progress", PROGRESS_FN), ("preview", PICTURE_FN),
    ("preview_interval", c.c_int), ("frame", PICTURE_FN), ("cancel", c.c_void_p))

STRUCTS = (Error, DeviceInfo, DeviceOptions, GeneratorOptions, ModelInfo, Lora, Generation, Memory, StageMemory, VideoInfo,
           Callbacks, Progress, Picture)
OK, CANCELLED = 0, 1
_POINTERS = ("qs_cancel_create", "qs_video_frame", "qs_video_latents")
_SIZES = ("qs_device_list_count", "qs_plan_stage_count")
_library: c.CDLL | None = None


class QuantsparseError(RuntimeError):
    """What the library says: `status` as qs_status, `field` the parameter at fault or ""."""

    def __init__(self, status: int, message: str, field: str) -> None:
        super().__init__(message)
        self.status, self.field = status, field


class Cancelled(Exception):
    """The work was cancelled, as asked."""


def _candidates() -> list[str]:
    named = os.environ.get("QUANTSPARSE_LIBRARY")
    if named:
        return [named]
    found = ctypes.util.find_library("quantsparse")
    beside = Path(__file__).parent / "libquantsparse.so.0"
    return [*([str(beside)] if beside.exists() else []), *([found] if found else []), "libquantsparse.so.0"]


def library() -> c.CDLL:
    """libquantsparse, loaded when it is first needed: what QUANTSPARSE_LIBRARY names, one beside this package, or the
    system's. Raises OSError."""
    global _library
    if _library is None:
        names = _candidates()
        for name in names:
            try:
                _library = c.CDLL(name)
                break
            except OSError as error:
                failure = error
        else:
            raise OSError(f"libquantsparse can't be loaded ({failure}): install it, or set QUANTSPARSE_LIBRARY to the file")
        for name in _POINTERS:
            getattr(_library, name).restype = c.c_void_p
        for name in _SIZES:
            getattr(_library, name).restype = c.c_size_t
        _library.qs_version_string.restype = c.c_char_p
    return _library


def call(function: str, *arguments: Any) -> None:
    """A function that returns a qs_status; the error struct is added. Raises QuantsparseError or Cancelled."""
    error = Error()
    status = getattr(library(), function)(*arguments, c.byref(error))
    if status == CANCELLED:
        raise Cancelled()
    if status != OK:
        raise QuantsparseError(status, error.message.decode(errors="replace"), error.field.decode())


def text(value: str | os.PathLike | None) -> bytes | None:
    return None if value is None else os.fspath(value).encode()
