"""The TensorFlow adapter: the contract's methods, each in a file of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from autotune.adapter import Example, Execution, Feeds, Runner
from autotune.adapters.tensorflow import profile
from autotune.adapters.tensorflow.calibration import calibrate
from autotune.adapters.tensorflow.candidate import Candidate
from autotune.adapters.tensorflow.load import read_model
from autotune.adapters.tensorflow.model import TensorFlowModel
from autotune.adapters.tensorflow.quantize import apply_config
from autotune.adapters.tensorflow.save import save_model
from autotune.adapters.tensorflow.session import TensorFlowRunner
from autotune.adapters.tensorflow.space import beyond_integers, tuning_space, without
from autotune.batch import BatchAxes
from autotune.calibration import CalibrationStatistics
from autotune.config import Precision, QuantizationConfig
from autotune.notes import listed
from autotune.space import TuningSpace

PACKAGES = ("ai-edge-litert", "ai-edge-quantizer")
"""Packages whose versions are part of the host's identity."""


class TensorFlowAdapter:
    """TensorFlow Lite, Keras and SavedModels on LiteRT with XNNPACK; see :class:`autotune.adapter.Adapter`."""

    name = "tensorflow"
    suffix = ".tflite"
    packages = PACKAGES

    def load(self, source: object, example: Example | None = None) -> TensorFlowModel:  # noqa: ARG002
        """Read a ``.tflite`` file or its bytes; convert a SavedModel, a Keras file or a ``keras.Model``.

        All of these say themselves what they read, so that no example is needed.

        Raises:
            ModelError: It is missing, corrupt, or LiteRT or the converter does not take it.
            MissingDependencyError: It is to be converted, and TensorFlow is not installed.
        """
        return read_model(source)

    def with_batch_axes(self, model: TensorFlowModel, axes: BatchAxes) -> TensorFlowModel:
        """The same model, told which axes count samples; see :class:`autotune.batch.BatchChoice`."""
        return dataclasses.replace(model, batch_axes=axes)

    def space(self, model: TensorFlowModel) -> TuningSpace:
        """The choices of each op on this host."""
        return tuning_space(model.ops)

    def calibrate(self, model: TensorFlowModel, batches: Iterable[Feeds], *, seed: int) -> CalibrationStatistics:
        """Gather the statistics of all tensors that int8 ops read and write.

        Raises:
            DataError: There is no batch, or a batch that the model cannot read.
        """
        return calibrate(model, batches, seed)

    def calibrated_space(
        self, space: TuningSpace, model: TensorFlowModel, statistics: CalibrationStatistics
    ) -> tuple[TuningSpace, Sequence[str]]:
        """The space without what the data rules out, and what XNNPACK has no kernel for.

        See :class:`autotune.adapter.DataDependentSpace`. To quantize the latter would cost accuracy and gain no speed.
        """
        names, notes = beyond_integers(model.ops, statistics)
        space = without(space, names, Precision.INT8)
        for precision in (Precision.INT8, Precision.INT8_DYNAMIC):
            offered = (op.space_of(precision) for op in space.ops)
            choices = {op.name: one.preferred for op, one in zip(space.ops, offered, strict=True) if one is not None}
            candidate = apply_config(model, QuantizationConfig(ops=choices), statistics)
            if isinstance(candidate, Candidate) and (left := candidate.not_as_asked):
                space = without(space, left, precision)
                notes.append(f"{listed(left)}: no {precision}, since XNNPACK has no kernel for it")
        return space, notes

    def apply(
        self, model: TensorFlowModel, config: QuantizationConfig, statistics: CalibrationStatistics
    ) -> TensorFlowModel:
        """The candidate, with integers as weights and between int8 ops.

        Raises:
            ApplyError: The config names an op that cannot be quantized, or a tensor has no statistics.
        """
        return apply_config(model, config, statistics)

    def runner(self, model: TensorFlowModel, execution: Execution) -> Runner:
        """The model in an interpreter of LiteRT, made ready for a shape of its inputs when this first comes.

        Raises:
            ApplyError: LiteRT refuses the model.
        """
        return TensorFlowRunner(model, execution)

    def save(self, model: TensorFlowModel, path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:
        """Write the model as a ``.tflite`` file; ``metadata`` goes into the file's own.

        Raises:
            WorkspaceError: The file cannot be written.
        """
        return save_model(model, path, metadata)

    def saturating_ops(self, model: TensorFlowModel) -> Sequence[str]:  # noqa: ARG002  # the contract's
        """None: XNNPACK adds products in 32 bits on every CPU; see :class:`autotune.adapter.PortabilityCheck`."""
        return ()

    def op_seconds(
        self, models: Sequence[TensorFlowModel], feeds: Feeds, execution: Execution
    ) -> Sequence[Mapping[str, float]]:
        """By model, by op: seconds of its kernel in one call; see :class:`autotune.adapter.CostModel`.

        Raises:
            ApplyError: LiteRT refuses a model.
        """
        return profile.op_seconds(models, feeds, execution)

    def conversion_seconds(
        self,
        model: TensorFlowModel,
        statistics: CalibrationStatistics,  # noqa: ARG002  # the contract's
        execution: Execution,
    ) -> Mapping[str, float]:
        """By op: seconds of turning its output into integers once, for one sample."""
        return profile.conversion_seconds(model, execution)

    def neighbours(self, model: TensorFlowModel) -> Mapping[str, Sequence[str]]:
        """By op: the ops that read its output, directly or through ops that pass int8 on unchanged."""
        return profile.neighbours(model)
