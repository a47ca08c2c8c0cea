"""The PyTorch adapter: the contract's methods, each in a file of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from autotune.adapter import Example, Execution, FakeQuantizedOp, Feeds, Runner
from autotune.adapters.pytorch.calibration import calibrate
from autotune.adapters.pytorch.fake_quantization import fake_quantization
from autotune.adapters.pytorch.load import read_model
from autotune.adapters.pytorch.model import PytorchModel
from autotune.adapters.pytorch.ops import argument_names, nodes_by_name
from autotune.adapters.pytorch.package import is_compiled
from autotune.adapters.pytorch.quantize import apply_config
from autotune.adapters.pytorch.saturation import saturating_ops
from autotune.adapters.pytorch.save import save_model
from autotune.adapters.pytorch.session import compiled_runner, quick_runner
from autotune.adapters.pytorch.space import calibrated_space, tuning_space
from autotune.batch import BatchAxes
from autotune.calibration import CalibrationStatistics
from autotune.config import QuantizationConfig
from autotune.host import current_host
from autotune.space import RecipeSpace, TuningSpace

PACKAGES = ("torch",)
"""Packages whose versions are part of the host's identity."""


class PytorchAdapter:
    """Modules and exported programs, compiled by Inductor; see :class:`autotune.adapter.Adapter`."""

    name = "pytorch"
    suffix = ".pt2"
    packages = PACKAGES

    def load(self, source: object, example: Example | None = None) -> PytorchModel:
        """Read a module, which is exported with ``example``, an exported program, or a package that was saved here.

        Raises:
            ModelError: It is missing, corrupt, or cannot be exported.
            DataError: A module is to be exported, and there is no batch.
            MissingDependencyError: There is no C++ compiler.
        """
        return read_model(source, example)

    def with_batch_axes(self, model: PytorchModel, axes: BatchAxes) -> PytorchModel:
        """The same model, told which axes count samples; see :class:`autotune.batch.BatchChoice`."""
        return dataclasses.replace(model, batch_axes=axes)

    def space(self, model: PytorchModel) -> TuningSpace:
        """The choices of each op on this host; none in a model that is compiled already."""
        if model.graph is None:
            return TuningSpace(ops=(), recipe=RecipeSpace())
        return tuning_space(model.graph, model.ops, current_host(PACKAGES))

    def calibrate(self, model: PytorchModel, batches: Iterable[Feeds], *, seed: int) -> CalibrationStatistics:
        """Gather the statistics of all tensors that an int8 op reads or writes.

        Raises:
            DataError: There is no batch, or a batch that the model cannot read.
        """
        return calibrate(model, batches, seed)

    def calibrated_space(
        self, space: TuningSpace, model: PytorchModel, statistics: CalibrationStatistics
    ) -> tuple[TuningSpace, Sequence[str]]:
        """The space without what the data rules out; see :class:`autotune.adapter.DataDependentSpace`."""
        if model.graph is None:
            return space, ()
        return calibrated_space(space, model.graph, model.ops, statistics)

    def fake_quantization(
        self, model: PytorchModel, config: QuantizationConfig, statistics: CalibrationStatistics
    ) -> Mapping[str, FakeQuantizedOp]:
        """The grids that each int8 op of a config reads; see :class:`autotune.adapter.FakeQuantization`.

        Raises:
            ApplyError: A tensor has no statistics.
        """
        return fake_quantization(model, config, statistics)

    def apply(self, model: PytorchModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> PytorchModel:
        """The candidate, with quantize and dequantize nodes and integers as weights; it is not compiled yet.

        Raises:
            ApplyError: The config names an op that cannot be quantized, or a tensor has no statistics.
        """
        return apply_config(model, config, statistics)

    def runner(self, model: PytorchModel, execution: Execution) -> Runner:
        """The model as Inductor compiled it: 5 to 30 s of processor time for one that was never compiled here.

        Raises:
            ApplyError: Inductor refuses the model.
        """
        return compiled_runner(model, execution)

    def quick_runner(self, model: PytorchModel, execution: Execution) -> Runner:
        """The model's graph without a compiler; see :class:`autotune.adapter.Compiles`."""
        return quick_runner(model, execution)

    def is_compiled(self, model: PytorchModel) -> bool:
        """Whether :meth:`runner` has nothing to compile; see :class:`autotune.adapter.Compiles`."""
        return is_compiled(model)

    def save(self, model: PytorchModel, path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:
        """Write the model as an AOTInductor package.

        Raises:
            WorkspaceError: The file cannot be written.
            ApplyError: Inductor refuses the model.
        """
        return save_model(model, path, metadata)

    def saturating_ops(self, model: PytorchModel) -> Sequence[str]:
        """Ops of a candidate that can saturate on x86 without VNNI; see :class:`autotune.adapter.PortabilityCheck`."""
        return saturating_ops(model)

    def tensors_read(self, model: PytorchModel) -> Mapping[str, Sequence[str]]:
        """By op: the activations that it reads; see :class:`autotune.adapter.NamesTensors`."""
        nodes = {} if model.graph is None else nodes_by_name(model.graph)
        return {op.name: argument_names(nodes[op.node], op.activations) for op in model.ops if op.node in nodes}
