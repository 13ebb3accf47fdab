"""The node itself. ComfyUI's modules are imported where they are used, so that tests run without it."""
from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import Iterator

import numpy as np

import quantsparse


def _device_names() -> list[str]:
    """"default", then what the drivers show; only "default" where there is no driver."""
    try:
        return ["default", *(f"{d.index}: {d.name}" for d in quantsparse.devices() if d.usable)]
    except (quantsparse.QuantsparseError, OSError):
        return ["default"]


@contextmanager
def _stopped_by_comfyui(cancel: quantsparse.Cancel) -> Iterator[None]:
    """While it is open, ComfyUI's Cancel button requests `cancel`, also between two reports of progress."""
    try:
        from comfy.model_management import processing_interrupted
    except ImportError:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            if processing_interrupted():
                cancel.request()
                return
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _progress_bar():
    """A function for quantsparse's progress; it does nothing outside ComfyUI."""
    try:
        from comfy.utils import ProgressBar
    except ImportError:
        return lambda _progress: None
    bar = ProgressBar(1)
    last = [0.0]

    def show(progress: quantsparse.Progress) -> None:
        now = time.monotonic()
        if progress.stage == "denoise" and now - last[0] > 0.1:
            last[0] = now
            bar.update_absolute(progress.done, progress.total)
    return show


class QuantsparseTextToVideo:
    """Frames as ComfyUI's IMAGE: float32 [frames, height, width, 3] in 0..1."""
    CATEGORY = "quantsparse"
    FUNCTION = "generate"
    RETURN_TYPES = ("IMAGE", "FLOAT")
    RETURN_NAMES = ("frames", "fps")

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        whole = {"default": 0, "min": 0, "max": 16384}
        return {
            "required": {
                "model": ("STRING", {"default": "", "tooltip": "A model's folder, or a file of quantsparse-calibrate"}),
                "prompt": ("STRING", {"multiline": True, "default": ""}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2 ** 63 - 1}),
            },
            "optional": {
                "negative_prompt": ("STRING", {"multiline": True, "default": ""}),
                "width": ("INT", {**whole, "tooltip": "0: the model's own"}),
                "height": ("INT", dict(whole)),
                "frames": ("INT", dict(whole)),
                "steps": ("INT", {"default": 0, "min": 0, "max": 1000}),
                "guidance_scale": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 100.0, "tooltip": "0: the model's; 1: none"}),
                "attention": (list(quantsparse.ATTENTION), {"default": "dense"}),
                "density": ("FLOAT", {"default": 0.25, "min": 0.01, "max": 1.0, "step": 0.01}),
                "device": (_device_names(), {"default": "default"}),
            },
        }

    def __init__(self) -> None:
        self._opened: tuple | None = None
        self._generator: quantsparse.Generator | None = None

    def _open(self, model: str, device: str) -> quantsparse.Generator:
        if self._opened != (model, device):
            if self._generator:
                self._generator.close()
            self._opened = None
            chosen = None if device == "default" else device.split(":")[0]
            self._generator = quantsparse.Generator(model, device=chosen, log=lambda line: print("quantsparse:", line))
            self._opened = (model, device)
        return self._generator

    def generate(self, model: str, prompt: str, seed: int, device: str = "default", density: float = 0.25,
                 attention: str = "dense", **parameters) -> tuple:
        generator = self._open(model, device)
        cancel = quantsparse.Cancel()
        if attention == "sparse":
            parameters |= {"attention": attention, "density": density}
        with _stopped_by_comfyui(cancel):
            try:
                frames = generator.generate(prompt, seed=seed, progress=_progress_bar(), cancel=cancel, **parameters)
            except quantsparse.Cancelled:
                self._interrupt()
                raise
        return _image(frames), generator.info.fps

    @staticmethod
    def _interrupt() -> None:
        """As ComfyUI's own nodes end when they are cancelled; nothing without it."""
        try:
            from comfy.model_management import throw_exception_if_processing_interrupted
        except ImportError:
            return
        throw_exception_if_processing_interrupted()


def _image(frames: np.ndarray):
    values = frames.astype(np.float32) / 255
    try:
        import torch
    except ImportError:
        return values
    return torch.from_numpy(values)


NODE_CLASS_MAPPINGS = {"QuantsparseTextToVideo": QuantsparseTextToVideo}
NODE_DISPLAY_NAME_MAPPINGS = {"QuantsparseTextToVideo": "Text to video (quantsparse, Vulkan)"}
