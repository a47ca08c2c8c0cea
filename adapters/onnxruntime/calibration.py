"""One pass of the fp32 model over the calibration data, with its inner tensors exposed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import Array, Feeds, TensorSpec
from autotune.adapters.onnx.session import LOG_SEVERITY
from autotune.batch import BatchAxes, leading_axes
from autotune.calibration import CalibrationStatistics, StatisticsCollector
from autotune.calibration.checks import (
    EXPOSED_BYTES,
    complete,
    parts_within,
    require_numbers,
    require_samples,
    require_sound,
)
from autotune.errors import DataError, ModelError


def calibrate(  # called by name; a model, what to look at, and what to run it on
    model_proto: onnx.ModelProto,
    tensors: Sequence[str],
    channel_axes: Mapping[str, int],
    batches: Iterable[Feeds],
    seed: int,
    external_dir: Path | None = None,
    *,
    axes: BatchAxes | None = None,
    exposed_bytes: int = EXPOSED_BYTES,
) -> CalibrationStatistics:
    """Run the fp32 model once over ``batches`` and gather the statistics of the named tensors.

    The tensors become outputs of the model, and numpy reads them where the runtime left them. (Reductions inside of the
    graph were tried instead: no faster, since the price is that of leaving the runtime's blocked layout.) Tensors that
    are not named stay inside, where the runtime goes on fusing the ops around them.

    Args:
        model_proto: The model; left as it is.
        tensors: Names of graph inputs and of outputs of nodes. Those that turn out not to hold floats are passed over.
        channel_axes: The axis that counts channels, for each tensor whose channel moments are wanted.
        batches: Iterated once.
        seed: Seed of the subsample that feeds the histograms.
        external_dir: Folder of the files that hold the model's external data.
        axes: Which axes count samples; None: the first one of each input where it is free.
        exposed_bytes: A batch whose named tensors take more is run again for each part of them, so that memory stays
            bounded at the price of time. A smaller batch costs neither.

    Raises:
        DataError: There is no batch, one that the model cannot read, or one with NaN in an input that is to be read.
        ModelError: The runtime refuses the model, a tensor is not in its graph, or a weight of it holds NaN.
    """
    inputs = _input_specs(model_proto.graph)
    axes = leading_axes(inputs) if axes is None else axes
    collector = StatisticsCollector(channel_axes, seed)
    exposure = Exposure(model_proto, tensors, external_dir, exposed_bytes)
    samples = 0
    for index, feeds in enumerate(complete(batches, [spec.name for spec in inputs])):
        for name in exposure.inputs:
            if feeds[name].dtype.kind == "f":
                require_numbers(name, feeds[name], index)
                collector.update(name, feeds[name])
        exposure.run(feeds, collector, index)
        samples += axes.size(feeds)
    require_samples(samples)
    if damaged := next((name for name in exposure.inner if collector.has_nan(name)), None):
        _require_sound_weights(model_proto, damaged, external_dir)
    return collector.finish(samples)


def _require_sound_weights(model_proto: onnx.ModelProto, tensor: str, external_dir: Path | None) -> None:
    """See that what makes NaN of sound inputs is the computation and not a weight.

    Raises:
        ModelError: A weight holds NaN.
    """
    base = "" if external_dir is None else str(external_dir)
    for constant in model_proto.graph.initializer:
        if constant.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
            continue
        require_sound(repr(constant.name), numpy_helper.to_array(constant, base_dir=base), tensor)


class Collector(Protocol):
    """Takes the tensors of each batch."""

    def update(self, name: str, value: Array) -> None:
        """Take one tensor, whose memory may be used again after this call."""
        ...


class Exposure:
    """Runs the model in as many parts as memory asks for, each exposing some of the tensors."""

    def __init__(
        self, model_proto: onnx.ModelProto, tensors: Sequence[str], external_dir: Path | None, exposed_bytes: int
    ) -> None:
        graph = model_proto.graph
        names = dict.fromkeys(tensors)
        produced = {output for node in graph.node for output in node.output}
        fed = {value.name for value in graph.input} - {value.name for value in graph.initializer}
        if unknown := [name for name in names if name not in produced and name not in fed]:
            raise ModelError(
                f"Tensors to calibrate must be inputs or node outputs of the main graph, but these are not: {unknown}"
            )
        self.inputs = tuple(name for name in names if name in fed)
        self.inner = tuple(name for name in names if name not in fed)
        self._model_proto = model_proto
        self._external_dir = external_dir
        self._limit = exposed_bytes
        self._parts: list[tuple[str, ...]] = []
        self._sessions: list[ort.InferenceSession] = []
        self._largest_input = 0

    def run(self, feeds: Feeds, collector: Collector, index: int) -> None:
        """Run batch ``index`` and hand every exposed tensor of floats to the collector."""
        if not self.inner:
            return
        size = sum(array.size for array in feeds.values())
        if size > self._largest_input:
            self._largest_input = size
            self._split(feeds)
        for names, session in zip(self._parts, self._sessions, strict=True):
            try:
                outputs = _run(session, names, feeds)
            except Exception as error:  # the runtime's errors have no common type
                raise DataError(f"Calibration batch {index} must run through the fp32 model, but: {error}") from error
            for name in reversed(names):
                value = outputs.pop()
                if isinstance(value, np.ndarray):
                    if value.dtype.kind == "f":
                        collector.update(name, value)
                elif value.is_tensor() and value.data_type() in _FLOATS:
                    collector.update(name, value.numpy())

    def _split(self, feeds: Feeds) -> None:
        """Share the tensors out so that those of one part fit the limit, and make the sessions anew if that changes."""
        parts = parts_within(self._limit, _tensor_bytes(self._model_proto, self.inner, feeds), self.inner)
        if len(parts) > len(self._parts):
            self._parts = parts
            self._sessions.clear()  # before the new ones are made: each holds the weights
            self._sessions = [self._session(part) for part in parts]

    def _session(self, exposed: Sequence[str]) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = LOG_SEVERITY
        if self._external_dir is not None:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(self._external_dir)
            )
        present = {value.name for value in self._model_proto.graph.output}
        added = [onnx.ValueInfoProto(name=name) for name in exposed if name not in present]
        # protobuf merges a message with what is appended to its bytes: more outputs without a copy of the weights
        more = onnx.ModelProto(graph=onnx.GraphProto(output=added))
        try:
            return ort.InferenceSession(
                self._model_proto.SerializeToString() + more.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # the runtime's errors have no common type, protobuf's comes on top
            raise ModelError(f"ONNX Runtime must be able to read the model, but: {error}") from error


def _run(session: ort.InferenceSession, names: Sequence[str], feeds: Feeds) -> list[Any]:
    """The named tensors where the runtime left them; copied where an input is of strings, of which no value is made."""
    if any(array.dtype == object for array in feeds.values()):
        return list(session.run(list(names), dict(feeds)))
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
    return list(session.run_with_ort_values(list(names), values))


_FLOATS = {"tensor(float)", "tensor(float16)", "tensor(double)"}


def _input_specs(graph: onnx.GraphProto) -> list[TensorSpec]:
    constants = {value.name for value in graph.initializer}
    specs = []
    for value in graph.input:
        if value.name not in constants:
            tensor = value.type.tensor_type
            shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
            specs.append(TensorSpec(name=value.name, dtype=dtype, shape=shape))
    return specs


def _tensor_bytes(model_proto: onnx.ModelProto, names: Sequence[str], feeds: Feeds) -> dict[str, int]:
    """The size of each tensor in bytes when the model reads ``feeds``.

    Shape inference tells. Where it cannot, a tensor is taken to be as large as the mean of those known, or as the
    inputs where none is.
    """
    light = onnx.ModelProto(ir_version=model_proto.ir_version, opset_import=model_proto.opset_import)
    light.functions.extend(model_proto.functions)
    light.graph.name = "shapes"
    light.graph.node.extend(model_proto.graph.node)
    for name, array in feeds.items():
        dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
        light.graph.input.append(helper.make_tensor_value_info(name, dtype, array.shape))
    for constant in model_proto.graph.initializer:
        if constant.data_location != TensorProto.EXTERNAL and math.prod(constant.dims) <= 1024:
            light.graph.initializer.append(constant)
        else:
            light.graph.input.append(helper.make_tensor_value_info(constant.name, constant.data_type, constant.dims))
    known: dict[str, int] = {}
    try:
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    except Exception:  # inference is an estimate here: a graph that defeats it runs all the same
        inferred = light
    for value in inferred.graph.value_info:
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(
            dim.HasField("dim_value") and dim.dim_value >= 0 for dim in tensor.shape.dim
        ):
            known[value.name] = 4 * math.prod(dim.dim_value for dim in tensor.shape.dim)
    sizes = [known[name] for name in names if name in known] or [array.nbytes for array in feeds.values()]
    mean = sum(sizes) // len(sizes)
    return {name: known.get(name, mean) for name in names}
