"""Modules and exported programs as models; see :class:`autotune.adapter.SourceFramework`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from autotune.adapter import BatchReader, Example
from autotune.adapters.pytorch.arguments import TensorReader, signature
from autotune.adapters.pytorch.export import export
from autotune.adapters.pytorch.gradients import ModuleGradients
from autotune.adapters.pytorch.module import TunedModule
from autotune.adapters.pytorch.onnx import to_onnx


class TorchSource:
    """PyTorch as the framework of a user's module."""

    name = "pytorch"

    def owns(self, source: object) -> bool:
        """Whether an object is an ``nn.Module`` or a ``torch.export.ExportedProgram``."""
        return isinstance(source, (nn.Module, torch.export.ExportedProgram))

    def to_onnx(self, source: Any, example: Example | None) -> tuple[bytes, Sequence[str]]:
        """Export a module, and convert the program to ONNX.

        Raises:
            ModelError: It cannot be exported or converted.
            DataError: There is no example, or one that ``forward`` does not take.
        """
        made = export(source, example)
        return to_onnx(made.program), made.notes

    def gradients(self, source: Any, example: Example | None) -> ModuleGradients:
        """Hessian probes by PyTorch's own differentiation."""
        return ModuleGradients(export(source, example).program)

    def reader(self, source: Any) -> TensorReader:
        """What makes arrays of the batches for a module."""
        return TensorReader(takes=signature(source))

    def module(self, call: Callable[[object], Any], read: BatchReader) -> TunedModule:
        """A tuned model as an ``nn.Module``."""
        assert isinstance(read, TensorReader)
        return TunedModule(call, read)
