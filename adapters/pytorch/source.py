"""Modules and exported programs as models.

See :class:`autotune.adapter.SourceFramework`, and :class:`autotune.adapter.Trainable` for how they are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autotune.adapter import BatchReader, Example, FakeQuantizedOp
from autotune.adapters.pytorch.arguments import TensorReader, signature, uncompiled
from autotune.adapters.pytorch.export import export
from autotune.adapters.pytorch.gradients import ModuleGradients
from autotune.adapters.pytorch.module import TunedModule
from autotune.adapters.pytorch.onnx import to_onnx
from autotune.adapters.pytorch.training import weights
from autotune.adapters.pytorch.training.graph import fake_quantized
from autotune.errors import ApplyError


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
        """A reader that makes arrays of the batches for a module."""
        return TensorReader(takes=signature(source))

    def module(self, call: Callable[[object], Any], read: BatchReader) -> TunedModule:
        """A tuned model as an ``nn.Module``."""
        assert isinstance(read, TensorReader)
        return TunedModule(call, read)

    def fake_quantized(
        self, source: Any, example: Example, ops: Mapping[str, FakeQuantizedOp]
    ) -> tuple[nn.Module, Sequence[str]]:
        """The module on a runtime's grids, with batch norms folded that the runtime folds.

        It is the exported program, so that dropout is off and batch norms keep their running statistics.

        Raises:
            ApplyError: The weight of an op is no parameter of the module.
        """
        return fake_quantized(export(source, example).program, ops)

    def trained(self, source: Any, model: Any) -> Any:
        """A copy of the module with the weights that were trained.

        Raises:
            ApplyError: A parameter is missing, has another shape, or is not finite.
        """
        if not isinstance(model, nn.Module):
            raise ApplyError(
                f"`train_fn` must train the module that it is given, or return an nn.Module, but returned a "
                f"{type(model).__name__}. Return nothing where it trains in place"
            )
        return weights.with_weights(uncompiled(source), uncompiled(model).state_dict())

    def changed(self, source: Any, trained: Any) -> bool:
        """Whether any weight of a copy differs from the user's."""
        return weights.differ(uncompiled(source), trained)

    def save_weights(self, model: Any, path: Path) -> None:
        """Write the weights of a module.

        Raises:
            OSError: The file cannot be written.
        """
        weights.save(uncompiled(model), path)

    def load_weights(self, source: Any, path: Path) -> Any:
        """A copy of the module with the weights of a file.

        Raises:
            WorkspaceError: The file is damaged or of another model.
        """
        return weights.load(uncompiled(source), path)
