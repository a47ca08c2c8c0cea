"""The OpenVINO adapter: the contract's methods, each in a file of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from autotune.adapter import Array, Example, Execution, FakeQuantizedOp, Feeds, Layer, Runner
from autotune.adapters.openvino import profile
from autotune.adapters.openvino.activations import activations, layers
from autotune.adapters.openvino.calibration import calibrate
from autotune.adapters.openvino.candidate import HALF, Candidate
from autotune.adapters.openvino.channels import can_be_smoothed
from autotune.adapters.openvino.fake_quantization import fake_quantization
from autotune.adapters.openvino.load import read_model
from autotune.adapters.openvino.model import OpenVinoModel
from autotune.adapters.openvino.ops import quantizable_ops, tensor_name
from autotune.adapters.openvino.prepare import prepare
from autotune.adapters.openvino.quantize import apply_config
from autotune.adapters.openvino.saturation import saturating_ops
from autotune.adapters.openvino.save import read_metadata, save_model
from autotune.adapters.openvino.session import OpenVinoRunner, half_types
from autotune.adapters.openvino.space import beyond_integers, tuning_space, without
from autotune.batch import BatchAxes
from autotune.calibration import CalibrationStatistics
from autotune.config import Precision, QuantizationConfig
from autotune.host import current_host
from autotune.notes import listed
from autotune.space import TuningSpace

PACKAGES = ("openvino",)
"""Packages whose versions are part of the host's identity."""


class OpenVinoAdapter:
    """ONNX models, IR and ``openvino.Model`` on OpenVINO's CPU plugin; see :class:`autotune.adapter.Adapter`."""

    name = "openvino"
    suffix = ".xml"
    packages = PACKAGES

    def load(self, source: object, example: Example | None = None) -> OpenVinoModel:  # noqa: ARG002
        """Read the path of an ONNX or IR model, ONNX bytes, an ``onnx.ModelProto`` or an ``openvino.Model``.

        All of these say themselves what they read, so that no example is needed.

        Raises:
            ModelError: It is missing, corrupt, or OpenVINO does not read it.
        """
        if isinstance(source, OpenVinoModel) and source.given is not None:
            return source
        return prepare(read_model(source))

    def as_given(self, model: OpenVinoModel) -> OpenVinoModel:
        """The user's model as it was before it was prepared; see :class:`autotune.adapter.Preparation`."""
        return model if model.given is None else model.given

    def executes_another_graph(self, model: OpenVinoModel) -> bool:  # noqa: ARG002  # the contract's
        """Never: what is prepared is what OpenVINO does itself; see :class:`autotune.adapter.Preparation`."""
        return False

    def on_data(self, model: OpenVinoModel, batches: Iterable[Feeds]) -> OpenVinoModel:  # noqa: ARG002
        """The model as it is; see :class:`autotune.adapter.Preparation`."""
        return model

    def with_batch_axes(self, model: OpenVinoModel, axes: BatchAxes) -> OpenVinoModel:
        """The same model, told which axes count samples; see :class:`autotune.batch.BatchChoice`."""
        given = None if model.given is None else dataclasses.replace(model.given, batch_axes=axes)
        return dataclasses.replace(model, given=given, batch_axes=axes)

    def space(self, model: OpenVinoModel) -> TuningSpace:
        """The choices of each op on this host."""
        ops, _ = quantizable_ops(model.graph)
        return tuning_space(ops, current_host(PACKAGES), half_types(), smoothing=can_be_smoothed(model.graph))

    def calibrate(self, model: OpenVinoModel, batches: Iterable[Feeds], *, seed: int) -> CalibrationStatistics:
        """Gather the statistics of all tensors that an int8 op reads.

        Raises:
            DataError: There is no batch, or a batch that the model cannot read.
        """
        return calibrate(model, batches, seed)

    def calibrated_space(
        self, space: TuningSpace, model: OpenVinoModel, statistics: CalibrationStatistics
    ) -> tuple[TuningSpace, Sequence[str]]:
        """The space without what the data rules out, and what OpenVINO computes in fp32 anyway.

        See :class:`autotune.adapter.DataDependentSpace`. To quantize the latter would cost accuracy and gain no speed.
        """
        names, notes = beyond_integers(quantizable_ops(model.graph)[0], statistics)
        space = without(space, names, Precision.INT8)
        for precision in (Precision.INT8, *HALF):
            offered = (op.space_of(precision) for op in space.ops)
            choices = {op.name: one.preferred for op, one in zip(space.ops, offered, strict=True) if one is not None}
            candidate = apply_config(model, QuantizationConfig(ops=choices), statistics)
            if isinstance(candidate, Candidate) and (stayed := candidate.stayed_fp32):
                space = without(space, stayed, precision)
                notes.append(f"{listed(stayed)}: no {precision}, since OpenVINO computes them in fp32 all the same")
        return space, notes

    def fake_quantization(
        self, model: OpenVinoModel, config: QuantizationConfig, statistics: CalibrationStatistics
    ) -> Mapping[str, FakeQuantizedOp]:
        """The grids that each int8 op of a config reads; see :class:`autotune.adapter.FakeQuantization`.

        Raises:
            ApplyError: A tensor has no statistics.
        """
        return fake_quantization(model, config, statistics)

    def apply(
        self, model: OpenVinoModel, config: QuantizationConfig, statistics: CalibrationStatistics
    ) -> OpenVinoModel:
        """The candidate, with FakeQuantize on activations and integers as weights.

        Raises:
            ApplyError: The config names an op that cannot be quantized, or a tensor has no statistics.
        """
        return apply_config(model, config, statistics)

    def runner(self, model: OpenVinoModel, execution: Execution) -> Runner:
        """The model on the CPU, compiled for a shape of its inputs when this first comes.

        Raises:
            ApplyError: OpenVINO refuses the model.
        """
        return OpenVinoRunner(model, execution)

    def save(self, model: OpenVinoModel, path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:
        """Write the model as IR: XML to ``path``, weights beside it; ``metadata`` goes into its ``rt_info``.

        Raises:
            WorkspaceError: A file cannot be written.
        """
        return save_model(model, path, metadata)

    def metadata(self, path: Path) -> Mapping[str, str]:
        """Our own entries in the ``rt_info`` of a saved model; see :class:`autotune.adapter.ReadsMetadata`.

        Raises:
            ModelError: It is missing, or OpenVINO cannot read it.
        """
        return read_metadata(path)

    def saturating_ops(self, model: OpenVinoModel) -> Sequence[str]:
        """Ops of a candidate that can saturate on x86 without VNNI; see :class:`autotune.adapter.PortabilityCheck`."""
        return saturating_ops(model)

    def op_seconds(
        self, models: Sequence[OpenVinoModel], feeds: Feeds, execution: Execution
    ) -> Sequence[Mapping[str, float]]:
        """By model, by op: seconds of its kernels in one call; see :class:`autotune.adapter.CostModel`.

        Raises:
            ApplyError: OpenVINO refuses a model.
        """
        return profile.op_seconds(models, feeds, execution)

    def conversion_seconds(
        self, model: OpenVinoModel, statistics: CalibrationStatistics, execution: Execution
    ) -> Mapping[str, float]:
        """By op: seconds of turning its output into integers once, for one sample."""
        elements = profile.written_elements(model, statistics.examples)
        seconds = profile.conversion_seconds(list(elements.values()), execution)
        return {name: seconds[count] for name, count in elements.items()}

    def neighbours(self, model: OpenVinoModel) -> Mapping[str, Sequence[str]]:
        """By op: the ops that read its output, directly or through nodes that pass int8 on unchanged."""
        return profile.neighbours(quantizable_ops(model.graph)[0])

    def tensors_read(self, model: OpenVinoModel) -> Mapping[str, Sequence[str]]:
        """By op: the activations that it reads; see :class:`autotune.adapter.NamesTensors`."""
        ops, _ = quantizable_ops(model.graph)
        return {op.name: [tensor_name(op.node.input_value(place)) for place in op.activations] for op in ops}

    def layers(self, model: OpenVinoModel) -> Sequence[Layer]:
        """The tensors of a model; see :class:`autotune.adapter.ShowsActivations`."""
        return layers(model)

    def activations(
        self, model: OpenVinoModel, batches: Iterable[Feeds], tensors: Sequence[str]
    ) -> Iterator[Mapping[str, Array]]:
        """For each batch, the values of those of ``tensors`` that the model has.

        Raises:
            ApplyError: OpenVINO refuses the model.
        """
        return activations(model, batches, tensors)
