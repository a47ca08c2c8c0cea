"""The Paddle adapter: the contract's methods, each in a file of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from autotune.adapter import Example, Execution, FakeQuantizedOp, Feeds, Runner
from autotune.adapters.paddle import profile
from autotune.adapters.paddle.calibration import calibrate
from autotune.adapters.paddle.candidate import Candidate
from autotune.adapters.paddle.load import read_model
from autotune.adapters.paddle.model import PaddleModel
from autotune.adapters.paddle.ops import QuantizableOp, quantizable_ops
from autotune.adapters.paddle.prepare import prepare
from autotune.adapters.paddle.quantize import apply_config
from autotune.adapters.paddle.saturation import saturating_ops
from autotune.adapters.paddle.save import save_model
from autotune.adapters.paddle.session import PaddleRunner
from autotune.adapters.paddle.space import beyond_integers, is_clipped, tuning_space, without_integers
from autotune.adapters.paddle.tensors import Tensors
from autotune.adapters.paddle.training import grids
from autotune.batch import BatchAxes
from autotune.calibration import CalibrationStatistics
from autotune.config import Precision, QuantizationConfig
from autotune.host import current_host
from autotune.notes import listed
from autotune.space import TuningSpace

PACKAGES = ("paddlepaddle",)
"""Packages whose versions are part of the host's identity."""


class PaddleAdapter:
    """``.pdmodel`` files and ``paddle.nn.Layer`` on Paddle Inference's CPU; see :class:`autotune.adapter.Adapter`."""

    name = "paddle"
    suffix = ".pdmodel"
    packages = PACKAGES

    def load(self, source: object, example: Example | None = None) -> PaddleModel:
        """Read the files of a program, or trace a layer with ``example``.

        Raises:
            ModelError: It is missing, corrupt, of the new representation, or a layer that cannot be traced.
            DataError: A layer is to be traced, and the data do not fit.
        """
        if isinstance(source, PaddleModel) and source.given is not None:
            return source
        return prepare(read_model(source, example))

    def as_given(self, model: PaddleModel) -> PaddleModel:
        """The user's model as it was before it was prepared; see :class:`autotune.adapter.Preparation`."""
        return model if model.given is None else model.given

    def executes_another_graph(self, model: PaddleModel) -> bool:  # noqa: ARG002  # the contract's
        """Never: what is prepared is what Paddle does itself; see :class:`autotune.adapter.Preparation`."""
        return False

    def on_data(self, model: PaddleModel, batches: Iterable[Feeds]) -> PaddleModel:  # noqa: ARG002
        """The model as it is; see :class:`autotune.adapter.Preparation`."""
        return model

    def with_batch_axes(self, model: PaddleModel, axes: BatchAxes) -> PaddleModel:
        """The same model, told which axes count samples; see :class:`autotune.batch.BatchChoice`."""
        given = None if model.given is None else dataclasses.replace(model.given, batch_axes=axes)
        return dataclasses.replace(model, given=given, batch_axes=axes)

    def space(self, model: PaddleModel) -> TuningSpace:
        """The choices of each op on this host."""
        return tuning_space(_ops(model), Tensors(model.program, model.constants), current_host(PACKAGES))

    def calibrate(self, model: PaddleModel, batches: Iterable[Feeds], *, seed: int) -> CalibrationStatistics:
        """Gather the statistics of all tensors that an int8 op reads or writes.

        Raises:
            DataError: There is no batch, or a batch that the model cannot read.
        """
        return calibrate(model, batches, seed)

    def calibrated_space(
        self, space: TuningSpace, model: PaddleModel, statistics: CalibrationStatistics
    ) -> tuple[TuningSpace, Sequence[str]]:
        """The space without what the data rules out, and what Paddle computes in fp32 anyway.

        See :class:`autotune.adapter.DataDependentSpace`. To quantize the latter would cost accuracy and gain no speed.
        """
        tensors = Tensors(model.program, model.constants)
        names, notes = beyond_integers(_ops(model), tensors, statistics)
        if clipped := [op.name for op in _ops(model) if is_clipped(op, tensors)]:
            notes.append(f"{listed(clipped)}: no int8, since Paddle cuts what is added to them at zero")
        space = without_integers(space, names)
        offered = {op.name: op.space_of(Precision.INT8) for op in space.ops}
        choices = {name: one.preferred for name, one in offered.items() if one is not None}
        candidate = apply_config(model, QuantizationConfig(ops=choices), statistics)
        if isinstance(candidate, Candidate) and candidate.stayed_fp32:
            space = without_integers(space, candidate.stayed_fp32)
            notes.append(f"{listed(candidate.stayed_fp32)}: no int8, since Paddle computes them in fp32 all the same")
        return space, notes

    def fake_quantization(
        self, model: PaddleModel, config: QuantizationConfig, statistics: CalibrationStatistics
    ) -> Mapping[str, FakeQuantizedOp]:
        """The grids that each int8 op of a config reads; see :class:`autotune.adapter.FakeQuantization`.

        Raises:
            ApplyError: A tensor has no statistics.
        """
        return grids(model, config, statistics)

    def apply(self, model: PaddleModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> PaddleModel:
        """The candidate, with scales for oneDNN's integer passes and integers as weights.

        Raises:
            ApplyError: The config names an op that cannot be quantized, or a tensor has no statistics.
        """
        return apply_config(model, config, statistics)

    def runner(self, model: PaddleModel, execution: Execution) -> Runner:
        """The model on the CPU, with oneDNN.

        Raises:
            ApplyError: Paddle refuses the model.
        """
        return PaddleRunner(model, execution)

    def save(self, model: PaddleModel, path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:
        """Write the program to ``path`` and its parameters beside it; ``metadata`` goes into the program.

        Raises:
            WorkspaceError: A file cannot be written.
        """
        return save_model(model, path, metadata)

    def saturating_ops(self, model: PaddleModel) -> Sequence[str]:
        """Ops of a candidate that can saturate on x86 without VNNI; see :class:`autotune.adapter.PortabilityCheck`."""
        return saturating_ops(model)

    def op_seconds(
        self, models: Sequence[PaddleModel], feeds: Feeds, execution: Execution
    ) -> Sequence[Mapping[str, float]]:
        """By model, by op: seconds of its kernel in one call; see :class:`autotune.adapter.CostModel`.

        Raises:
            ApplyError: Paddle refuses a model.
        """
        return profile.op_seconds(models, feeds, execution)

    def conversion_seconds(
        self, model: PaddleModel, statistics: CalibrationStatistics, execution: Execution
    ) -> Mapping[str, float]:
        """By op: seconds of turning its output into integers once, for one sample."""
        elements = profile.written_elements(model, _ops(model), statistics.examples, execution)
        seconds = profile.conversion_seconds(list(elements.values()), execution)
        return {name: seconds[count] for name, count in elements.items()}

    def neighbours(self, model: PaddleModel) -> Mapping[str, Sequence[str]]:
        """By op: the ops that read its output, directly or through what passes int8 on unchanged."""
        return profile.neighbours(model, _ops(model))


def _ops(model: PaddleModel) -> list[QuantizableOp]:
    return quantizable_ops(model.program, model.constants, model.names)
