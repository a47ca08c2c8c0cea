"""The latency of each op: OpenVINO's own profile of whole models, matched to the ops of the graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import openvino as ov
from openvino import opset13 as opset

from autotune.adapter import Execution, Feeds
from autotune.adapters.openvino.model import OpenVinoModel
from autotune.adapters.openvino.ops import PASSING, QuantizableOp, op_name, quantizable_ops, written
from autotune.adapters.openvino.runtime import kernels
from autotune.adapters.openvino.session import compile_for, compiled

_CALLS = 24
_WARMUP = 3


def op_seconds(models: Sequence[OpenVinoModel], feeds: Feeds, execution: Execution) -> list[Mapping[str, float]]:
    """By model, by op: seconds of the kernel that the op became part of; the models are run in turn.

    A kernel that several ops were fused into belongs to the convolution or MatMul among them, else to the first one.
    OpenVINO counts whole microseconds, so that the mean of the faster half of the calls tells more than one of them.

    Raises:
        ApplyError: OpenVINO refuses a model.
    """
    names = {op.name for op in quantizable_ops(models[0].graph)[0]}
    arrays = [np.asarray(feeds[spec.name], order="C") for spec in models[0].inputs]
    shapes = tuple(array.shape for array in arrays)
    requests, owners = [], []
    for model in models:
        made = compile_for(model, shapes, execution, profile=True)
        nodes = {op_name(node): node for node in model.graph.get_ordered_ops()}
        found = kernels(made, {name: nodes[name] for name in names})
        owners.append({kernel: members[0] for kernel, members in found.items()})
        requests.append(made.create_infer_request())
        for index, array in enumerate(arrays):
            requests[-1].set_input_tensor(index, ov.Tensor(array, shared_memory=array.ndim > 0))
    calls: list[dict[str, list[float]]] = [defaultdict(list) for _ in models]
    for number in range(_WARMUP + _CALLS):
        for request, seconds in zip(requests, calls, strict=True):
            request.infer()
            if number >= _WARMUP:
                for kernel in request.profiling_info:
                    seconds[kernel.node_name].append(kernel.real_time.total_seconds())
    return [_by_op(seconds, owner) for seconds, owner in zip(calls, owners, strict=True)]


def _by_op(calls: Mapping[str, Sequence[float]], owners: Mapping[str, str]) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for kernel, seconds in calls.items():
        if kernel in owners:
            found[owners[kernel]] += _typical(seconds)
    return dict(found)


def _typical(seconds: Sequence[float]) -> float:
    """The mean of the faster half: another process makes calls longer, never shorter."""
    return float(np.mean(sorted(seconds)[: max(1, len(seconds) // 2)]))


def conversion_seconds(sizes: Sequence[int], execution: Execution) -> Mapping[int, float]:
    """Seconds of turning a float32 tensor into u8, by its number of elements.

    Raises:
        ApplyError: OpenVINO refuses the model.
    """
    distinct = sorted(set(sizes))
    if not distinct:
        return {}
    inputs, outputs = [], []
    for size in distinct:
        source = opset.parameter([1, size], np.float32, name=f"x{size}")
        ends = opset.constant(np.float32(0)), opset.constant(np.float32(2.55))
        quantized = opset.fake_quantize(source, *ends, *ends, 256)
        quantized.set_friendly_name(f"q{size}")
        inputs.append(source)
        # Only a number leaves the graph: memory for large outputs costs more than the conversion.
        outputs.append(opset.reduce_max(quantized, opset.constant([1]), keep_dims=True))
    request = compiled(ov.Model(outputs, inputs, "conversions"), execution, profile=True).create_infer_request()
    rng = np.random.default_rng(0)
    for index, size in enumerate(distinct):
        request.set_input_tensor(index, ov.Tensor(rng.random((1, size), np.float32)))
    calls: dict[str, list[float]] = defaultdict(list)
    for number in range(_WARMUP + _CALLS):
        request.infer()
        if number >= _WARMUP:
            for kernel in request.profiling_info:
                calls[kernel.node_name].append(kernel.real_time.total_seconds())
    return {size: _typical(calls.get(f"q{size}", [0.0])) for size in distinct}


def written_elements(model: OpenVinoModel, examples: Sequence[Feeds]) -> dict[str, int]:
    """By op: how many values it writes for one sample; none where no sample was kept or its shape is refused."""
    graph = model.graph.clone()
    if not examples:
        return {}
    shapes = (ov.PartialShape(list(examples[0][spec.name].shape)) for spec in model.inputs)
    try:
        graph.reshape(dict(zip(graph.inputs, shapes, strict=True)))
    except RuntimeError:
        return {}
    shaped = ((op.name, op.node.get_output_partial_shape(0)) for op in quantizable_ops(graph)[0])
    return {name: int(np.prod(list(shape.to_shape()))) for name, shape in shaped if shape.is_static}


def neighbours(ops: Sequence[QuantizableOp]) -> dict[str, tuple[str, ...]]:
    """By op: the ops that read its output, directly or through nodes that keep the integers as they are."""
    names = {op.name for op in ops}
    found: dict[str, tuple[str, ...]] = {}
    for op in ops:
        readers: dict[str, None] = {}
        pending = [written(op)]
        while pending:
            for reader in pending.pop().get_target_inputs():
                node = reader.get_node()
                if op_name(node) in names:
                    readers[op_name(node)] = None
                elif node.get_type_name() in PASSING:
                    pending.extend(node.outputs())
        found[op.name] = tuple(readers)
    return found
