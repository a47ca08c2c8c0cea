"""The ONNX Runtime adapter: the contract's methods, each in a file of its own."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from autotune.adapter import Array, Example, Execution, FakeQuantizedOp, Feeds, Layer, Runner
from autotune.adapters.onnx.branches import Shapes, chosen_by_shapes
from autotune.adapters.onnx.compare import executes_another_graph
from autotune.adapters.onnx.decided import deciding_inputs, values_in
from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnx.load import read_model
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnx.prepare import agrees_on, prepare
from autotune.adapters.onnx.session import SessionRunner, open_session, session_options
from autotune.adapters.onnxruntime import activations
from autotune.adapters.onnxruntime.apply import apply_config, fake_quantization, local_errors
from autotune.adapters.onnxruntime.calibration import calibrate
from autotune.adapters.onnxruntime.choices.execution_options import OPTIONS, from_metadata
from autotune.adapters.onnxruntime.choices.ops import quantizable_ops
from autotune.adapters.onnxruntime.choices.space import observed_tensors, tuning_space
from autotune.adapters.onnxruntime.choices.unbounded import bounded_space
from autotune.adapters.onnxruntime.measure import profile
from autotune.adapters.onnxruntime.measure.half_cache import half_speeds
from autotune.adapters.onnxruntime.saturation import saturating_ops
from autotune.adapters.onnxruntime.save import read_metadata, save_model
from autotune.batch import BatchAxes, axes_of
from autotune.calibration import CalibrationStatistics, ExampleReservoir
from autotune.calibration.checks import complete
from autotune.config import QuantizationConfig
from autotune.host import current_host
from autotune.space import TuningSpace

PACKAGES = ("onnx", "onnxruntime")
"""The versions that figures depend on; see :class:`autotune.adapter.DeclaresPackages`."""


class OnnxRuntimeAdapter:
    """ONNX models on ONNX Runtime's CPU execution provider; see :class:`autotune.adapter.Adapter`."""

    name = "onnxruntime"
    suffix = ".onnx"
    options = OPTIONS
    packages = PACKAGES

    def load(self, source: object, example: Example | None = None) -> OnnxModel:  # noqa: ARG002
        """Read a path, the bytes of an ONNX file or an ``onnx.ModelProto``, and prepare it for quantization.

        An ONNX model says itself what it reads, so that no example is needed.

        Raises:
            ModelError: It is missing, corrupt, no ONNX model, or ONNX Runtime cannot run it.
        """
        if isinstance(source, OnnxModel) and source.given is not None:
            return source
        given = read_model(source)
        metadata = {entry.key: entry.value for entry in given.proto.metadata_props}
        return _with_left_out(prepare(dataclasses.replace(given, optimization=from_metadata(metadata))))

    def as_given(self, model: OnnxModel) -> OnnxModel:
        """The user's model as it was before it was prepared; see :class:`autotune.adapter.Preparation`."""
        return model if model.given is None else model.given

    def executes_another_graph(self, model: OnnxModel) -> bool:
        """Whether preparation changed what ONNX Runtime executes; see :class:`autotune.adapter.Preparation`."""
        return model.given is not None and executes_another_graph(model.given, model)

    def on_data(self, model: OnnxModel, batches: Iterable[Feeds]) -> OnnxModel:
        """The model held against the user's own on their data; see :class:`autotune.adapter.Preparation`.

        Raises:
            ModelError: The prepared model computes something else, whatever is left out.
        """
        if model.given is None:
            return model
        rest = iter(batches)
        first = tuple(itertools.islice(rest, 1))
        names = deciding_inputs(model.proto)
        every = itertools.chain(first, rest)
        shapes = Shapes()
        fixed = values_in(shapes.watch(every), names) if names else {}
        if fixed or chosen_by_shapes(model.proto):
            shapes.all_of(every)
            return _with_left_out(prepare(model.given, first, fixed, shapes.found))
        return model if agrees_on(model, first) else _with_left_out(prepare(model.given, first))

    def with_batch_axes(self, model: OnnxModel, axes: BatchAxes) -> OnnxModel:
        """The same model, told which axes count samples; see :class:`autotune.batch.BatchChoice`."""
        given = None if model.given is None else dataclasses.replace(model.given, batch_axes=axes)
        return dataclasses.replace(model, given=given, batch_axes=axes)

    def space(self, model: OnnxModel) -> TuningSpace:
        """The choices of each op on this host; measures half precision for seconds where that was never done."""
        host = current_host(PACKAGES)
        return tuning_space(Graph(model.proto), host, half_speeds(host))

    def calibrated_space(
        self, space: TuningSpace, model: OnnxModel, statistics: CalibrationStatistics
    ) -> tuple[TuningSpace, Sequence[str]]:
        """The space without what masks and empty tensors rule out; see :class:`autotune.adapter.DataDependentSpace`."""
        return bounded_space(space, Graph(model.proto), statistics)

    def local_errors(
        self, model: OnnxModel, config: QuantizationConfig, statistics: CalibrationStatistics
    ) -> dict[str, float]:
        """How exact each int8 op is by itself; see :class:`autotune.adapter.LocalErrors`.

        Raises:
            ApplyError: A tensor has no statistics.
        """
        return local_errors(model, config, statistics)

    def fake_quantization(
        self, model: OnnxModel, config: QuantizationConfig, statistics: CalibrationStatistics
    ) -> Mapping[str, FakeQuantizedOp]:
        """The grids that each int8 op of a config reads and writes; see :class:`autotune.adapter.FakeQuantization`.

        Raises:
            ApplyError: The config names an op that cannot be quantized, or a tensor has no statistics.
        """
        return fake_quantization(model, config, statistics)

    def host_findings(self) -> Sequence[str]:
        """The measurements of half precision; see :class:`autotune.adapter.HostFindings`."""
        return (str(half_speeds(current_host(PACKAGES))),)

    def calibrate(self, model: OnnxModel, batches: Iterable[Feeds], *, seed: int) -> CalibrationStatistics:
        """Gather the statistics of all tensors around ops that have an integer kernel.

        Raises:
            DataError: There is no batch, or a batch that the model cannot read.
        """
        tensors, channel_axes = observed_tensors(Graph(model.proto))
        axes = axes_of(model)
        examples = ExampleReservoir(axes.inputs if axes.resizable else {}, seed)
        watched = examples.watch(complete(batches, [spec.name for spec in model.inputs]))
        statistics = calibrate(model.proto, tensors, channel_axes, watched, seed, model.external_dir, axes=axes)
        return dataclasses.replace(statistics, examples=examples.finish())

    def apply(self, model: OnnxModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> OnnxModel:
        """The candidate as a QDQ model.

        Raises:
            ApplyError: The config names an op that cannot be quantized, or a tensor has no statistics.
        """
        return apply_config(model, config, statistics)

    def runner(self, model: OnnxModel, execution: Execution) -> Runner:
        """A session on the CPU.

        Raises:
            ApplyError: ONNX Runtime refuses the model.
        """
        session = open_session(model.stored, model.external_dir, session_options(execution, model.optimization))
        return SessionRunner(session, keep=model)

    def save(self, model: OnnxModel, path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:
        """Write the model, and its weights where they need a file of their own; ``metadata`` goes into its props.

        Raises:
            WorkspaceError: The file cannot be written.
        """
        return save_model(model, path, metadata)

    def metadata(self, path: Path) -> Mapping[str, str]:
        """The metadata of a saved model; see :class:`autotune.adapter.ReadsMetadata`.

        Raises:
            ModelError: It is missing, corrupt or no ONNX model.
        """
        return read_metadata(path)

    def saturating_ops(self, model: OnnxModel) -> Sequence[str]:
        """Ops of a candidate that can saturate on x86 without VNNI; see :class:`autotune.adapter.PortabilityCheck`."""
        return saturating_ops(model)

    def op_seconds(
        self, models: Sequence[OnnxModel], feeds: Feeds, execution: Execution
    ) -> Sequence[Mapping[str, float]]:
        """By model, by op: seconds of its kernels in one call; see :class:`autotune.adapter.CostModel`.

        Raises:
            ApplyError: ONNX Runtime refuses a model.
        """
        fp32 = Graph(models[0].proto)
        ops, _ = quantizable_ops(fp32)
        return [profile.by_op(seconds, fp32, ops) for seconds in profile.profile(models, feeds, execution)]

    def conversion_seconds(
        self, model: OnnxModel, statistics: CalibrationStatistics, execution: Execution
    ) -> Mapping[str, float]:
        """By op: seconds of one QuantizeLinear or DequantizeLinear on its output for one sample."""
        ops, _ = quantizable_ops(Graph(model.proto))
        elements = {
            op.name: max(1, statistics.tensors[op.output].count // statistics.samples)
            for op in ops
            if op.output in statistics.tensors
        }
        seconds = profile.conversion_seconds(list(elements.values()), execution)
        return {name: seconds[count] for name, count in elements.items()}

    def neighbours(self, model: OnnxModel) -> Mapping[str, Sequence[str]]:
        """By op: the ops that read its output, directly or through nodes that pass int8 on unchanged."""
        graph = Graph(model.proto)
        return profile.neighbours(graph, quantizable_ops(graph)[0])

    def tensors_read(self, model: OnnxModel) -> Mapping[str, Sequence[str]]:
        """By op: the activations that it reads; see :class:`autotune.adapter.NamesTensors`."""
        return {op.name: op.activations for op in quantizable_ops(Graph(model.proto))[0]}

    def layers(self, model: OnnxModel) -> Sequence[Layer]:
        """The tensors of the user's file; see :class:`autotune.adapter.ShowsActivations`."""
        return activations.layers(self.as_given(model))

    def activations(
        self, model: OnnxModel, batches: Iterable[Feeds], tensors: Sequence[str]
    ) -> Iterator[Mapping[str, Array]]:
        """Values of tensors inside of the user's file; see :class:`autotune.adapter.ShowsActivations`.

        Raises:
            DataError: The model cannot read a batch.
        """
        return activations.activations(self.as_given(model), batches, tensors)


def _with_left_out(model: OnnxModel) -> OnnxModel:
    """The model with a line for each kind of op that stays as it is."""
    _, left_out = quantizable_ops(Graph(model.proto))
    return dataclasses.replace(model, notes=(*model.notes, *left_out))
