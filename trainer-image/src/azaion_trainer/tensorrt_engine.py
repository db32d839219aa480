"""TensorRT: an engine built on the training's own GPU from the ONNX file, for GPUs of the same make only.

The precision is the ONNX file's, so that the engine finds what the .pt finds. TensorRT itself is not in the trainer's
image: it is several gigabytes from NVIDIA's own index (see docs/export.md).
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch

from azaion_trainer import files
from azaion_trainer.export import MAX_BATCH, MAX_DETECTIONS, Batch, ExportError, Runner, Source, words

_MODULE = "tensorrt"


class TensorRT:
    """The exporter of TensorRT engines."""

    def file_name(self, line: str, device: torch.device) -> str:
        """As readers look for it: azaion.cc_8.9_sm_128.engine for compute capability 8.9 with 128 multiprocessors."""
        if device.type != "cuda":
            raise ExportError("an engine is built on the GPU it is for, and this run has none (spec.training.device)")
        if importlib.util.find_spec(_MODULE) is None:
            raise ExportError("TensorRT is not in the trainer's image; docs/export.md says how to add it")
        gpu = torch.cuda.get_device_properties(device)
        return f"{line}.cc_{gpu.major}.{gpu.minor}_sm_{gpu.multi_processor_count}.engine"

    def build(self, source: Source, target: Path) -> None:
        """Takes minutes, in which TensorRT tries its kernels."""
        from ultralytics.utils.export.engine import onnx2engine

        staged = target.with_name(f".{target.name}.building")
        shape = (MAX_BATCH, 3, source.image_size, source.image_size)
        try:
            # Without metadata the file is the engine and nothing else, as TensorRT's own runtime reads it.
            onnx2engine(os.fspath(source.onnx), staged, dynamic=True, shape=shape)
            files.sync_file(staged)
            staged.rename(target)
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise ExportError(words(error)) from error
        finally:
            staged.unlink(missing_ok=True)

    def runner(self, exported: Path, source: Source) -> Runner:
        """Runs the engine on the GPU it was built on."""
        import tensorrt as trt  # type: ignore[import-not-found,unused-ignore]

        engine: Any = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(exported.read_bytes())
        if engine is None:
            raise ExportError("TensorRT does not read the engine it has built")
        given, found = (engine.get_tensor_name(number) for number in range(2))
        context = engine.create_execution_context()

        def run(batch: Batch) -> Batch:
            images = torch.from_numpy(batch).to(source.device)
            rows = torch.empty((len(batch), MAX_DETECTIONS, 6), device=source.device)
            context.set_input_shape(given, tuple(images.shape))
            context.set_tensor_address(given, images.data_ptr())
            context.set_tensor_address(found, rows.data_ptr())
            stream = torch.cuda.Stream(source.device)
            stream.wait_stream(torch.cuda.current_stream(source.device))
            if not context.execute_async_v3(stream.cuda_stream):
                raise ExportError(f"the engine failed on a batch of {len(batch)}")
            stream.synchronize()
            detections: Batch = rows.cpu().numpy()
            return detections

        return run
