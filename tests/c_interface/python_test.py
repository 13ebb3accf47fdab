"""The Python package over the C interface: python_test.py LIBRARY ROOT"""
from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
import types
import unittest
import unittest.mock
from pathlib import Path

LIBRARY, ROOT = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
os.environ["QUANTSPARSE_LIBRARY"] = str(LIBRARY)
sys.path.insert(0, str(ROOT / "runtime/python"))

import numpy as np  # noqa: E402

import quantsparse  # noqa: E402
from quantsparse import _native as native  # noqa: E402

MODEL = ROOT / "samples/models/shapes-tiny"
PROMPT = "a red circle moves left on a black background"
SMALL = {"width": 96, "height": 96, "frames": 9, "steps": 2, "seed": 3}


class PythonTest(unittest.TestCase):
    def test_structs_are_laid_out_as_the_headers(self):
        lines = []
        for s in native.STRUCTS:
            name = getattr(s, "c_name", "qs_" + s.__name__.lower())
            lines.append(f'printf("{name} %zu", sizeof({name}));')
            lines += [f'printf(" %zu", offsetof({name}, {field}));' for field, *_ in s._fields_] + ['puts("");']
        with tempfile.TemporaryDirectory() as folder:
            source, program = Path(folder) / "layout.c", Path(folder) / "layout"
            source.write_text("#include <quantsparse.h>\n#include <stdio.h>\nint main(void) {" + "".join(lines) + "}")
            subprocess.run(["cc", source, f"-I{ROOT}/runtime/include", f"-L{LIBRARY.parent}", "-lquantsparse", "-o", program],
                           check=True)
            printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
        for s, line in zip(native.STRUCTS, printed, strict=True):
            expected = [ctypes.sizeof(s), *(getattr(s, field).offset for field, *_ in s._fields_)]
            self.assertEqual(line.split()[1:], [str(n) for n in expected], line)

    def test_every_function_of_the_header_exists(self):
        for name in ("qs_version", "qs_generate", "qs_plan_create", "qs_video_destroy"):
            self.assertTrue(hasattr(native.library(), name))
        self.assertRegex(quantsparse.version(), r"^\d+\.\d+\.\d+$")

    def test_a_clip_by_one_function_and_by_a_generator(self):
        first = quantsparse.generate(MODEL, PROMPT, **SMALL)
        self.assertEqual((first.shape, first.dtype), ((9, 96, 96, 3), np.uint8))
        seen, previews = [], []
        with quantsparse.Generator(MODEL) as generator:
            self.assertEqual((generator.info.architecture, generator.info.width, generator.info.sampler),
                             ("wan2.1-t2v", 192, "unipc"))
            plan = generator.plan(PROMPT, **SMALL)
            self.assertTrue(plan.fits)
            self.assertEqual(max(plan.stages.values()), plan.peak_bytes)
            second = generator.generate(PROMPT, progress=seen.append,
                                        preview=lambda picture, step: previews.append((picture.shape, step)), **SMALL)
        np.testing.assert_array_equal(first, second)
        self.assertEqual(previews, [((96, 96, 3), 1)])
        self.assertEqual({p.stage for p in seen}, {"text", "load", "denoise", "decode"})

    def test_cancel_from_another_thread_and_errors_of_callbacks(self):
        with quantsparse.Generator(MODEL) as generator:
            cancel = quantsparse.Cancel()
            threading.Timer(0.3, cancel.request).start()
            with self.assertRaises(quantsparse.Cancelled):
                generator.generate(PROMPT, cancel=cancel, **{**SMALL, "steps": 1000})

            def fail(_progress):
                raise KeyError("mine")
            with self.assertRaises(KeyError):
                generator.generate(PROMPT, progress=fail, **SMALL)

    def test_errors_name_the_field(self):
        log = []
        with quantsparse.Generator(MODEL, log=log.append) as generator:
            with self.assertRaises(quantsparse.QuantsparseError) as caught:
                generator.plan(PROMPT, width=97)
            self.assertEqual(caught.exception.field, "width")
            with self.assertRaises(ValueError):
                generator.plan(PROMPT, sampler="magic")
            with self.assertRaises(TypeError):
                generator.plan(PROMPT, widht=96)
            lora = generator.generate(PROMPT, negative_prompt="a square", loras=[(MODEL / "lora-4-steps.safetensors", 1.0)],
                                      timesteps=[1000, 500], guidance_scale=1, width=64, height=64, frames=5)
            self.assertEqual(lora.shape, (5, 64, 64, 3))
            self.assertTrue(any("negative prompt" in line for line in log), log)
        with self.assertRaises(quantsparse.QuantsparseError):
            quantsparse.Generator("/no/such/model")
        self.assertTrue(any(d.is_default for d in quantsparse.devices()))

    def test_the_node_of_comfyui_without_it(self):
        spec = importlib.util.spec_from_file_location("comfyui_sample", ROOT / "samples/comfyui/__init__.py",
                                                      submodule_search_locations=[str(ROOT / "samples/comfyui")])
        module = importlib.util.module_from_spec(spec)
        sys.modules["comfyui_sample"] = module
        spec.loader.exec_module(module)
        node_class = module.NODE_CLASS_MAPPINGS["QuantsparseTextToVideo"]
        inputs = node_class.INPUT_TYPES()
        self.assertEqual(inputs["optional"]["device"][0][0], "default")
        self.assertEqual(set(module.NODE_DISPLAY_NAME_MAPPINGS), set(module.NODE_CLASS_MAPPINGS))
        small = {k: v for k, v in SMALL.items() if k != "seed"}
        node = node_class()
        frames, fps = getattr(node, node_class.FUNCTION)(model=str(MODEL), prompt=PROMPT, seed=3, **small)
        self.assertEqual((tuple(frames.shape), fps), ((9, 96, 96, 3), 16))
        again, _ = node.generate(model=str(MODEL), prompt=PROMPT, seed=3, attention="sparse", density=0.5, **small)
        self.assertGreater(float(abs(np.asarray(frames) - np.asarray(again)).max()), 0)

        # As inside ComfyUI: the button is pressed before the first report of progress.
        comfy, management, utils = (types.ModuleType(n) for n in ("comfy", "comfy.model_management", "comfy.utils"))

        class Interrupted(Exception):
            pass

        def throw():
            raise Interrupted()
        management.processing_interrupted, management.throw_exception_if_processing_interrupted = lambda: True, throw
        utils.ProgressBar = lambda _total: types.SimpleNamespace(update_absolute=lambda *_: None)
        with unittest.mock.patch.dict(sys.modules, {m.__name__: m for m in (comfy, management, utils)}):
            with self.assertRaises(Interrupted):
                node.generate(model=str(MODEL), prompt=PROMPT, seed=3, **{**small, "steps": 1000})


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
