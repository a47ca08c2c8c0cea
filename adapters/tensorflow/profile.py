"""The latency of each op: models of one op each, as it stands in the whole one, timed by themselves.

LiteRT's profiler cannot be reached from Python, and XNNPACK computes a whole model in one call. A model of one op has
the same kernel, weights and integers, and an overhead that is measured on an op that does next to nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from autotune.adapter import Execution, Feeds
from autotune.adapters.tensorflow.graph import FLOAT32, INT8, Graph
from autotune.adapters.tensorflow.kernels import CONVERSIONS
from autotune.adapters.tensorflow.model import TensorFlowModel
from autotune.adapters.tensorflow.ops import FOLLOWING, QuantizableOp, elements
from autotune.adapters.tensorflow.session import first_line, new_interpreter
from autotune.adapters.tensorflow.single import single_op
from autotune.errors import ApplyError

_CALLS = 24
_WARMUP = 3
_SHORTEST_S = 1e-7


def op_seconds(models: Sequence[TensorFlowModel], feeds: Feeds, execution: Execution) -> list[Mapping[str, float]]:
    """By model, by op: seconds of its kernel, without conversions; the models are run in turn, op by op.

    Raises:
        ApplyError: LiteRT refuses a model.
    """
    reference = models[0]
    samples = max((feeds[spec.name].shape[0] for spec in reference.inputs if feeds[spec.name].ndim), default=1)
    overhead = _overhead(execution)
    found: list[dict[str, float]] = [{} for _ in models]
    graphs = [model.graph for model in models]
    writers = [_writers(graph) for graph in graphs]
    for op in reference.ops:
        contents = [
            single_op(graph, writer[op.outputs[0]])
            for graph, writer in zip(graphs, writers, strict=True)
            if op.outputs[0] in writer
        ]
        timed = _timed(contents, samples, execution)
        for _ in range(_WARMUP + _CALLS):
            for each in timed:
                each.call()
        for seconds, each in zip(found, timed, strict=False):
            seconds[op.name] = max(each.typical - overhead, _SHORTEST_S) * (1 if each.resized else samples)
    return list(found)


def _writers(graph: Graph) -> dict[int, Any]:
    """By place of a tensor: the operator that writes it, conversions left out. Candidates keep the places."""
    return {
        int(place): each for each in graph.operators if graph.kind(each) not in CONVERSIONS for place in each.outputs
    }


def _timed(contents: Sequence[bytes], samples: int, execution: Execution) -> list[_Timed]:
    """Models of one op, made ready; none where it cannot be run by itself, which leaves the op without a time.

    An op may read a shape that others compute, or take one sample alone, such as one behind a reshape.
    """
    for count in dict.fromkeys((samples, 1)):
        try:
            timed = [_Timed(content, count, execution) for content in contents]
        except ApplyError:
            continue
        for each in timed:
            each.resized = each.resized or samples == 1
        return timed if all(each.typed for each in timed) else []
    return []


class _Timed:
    """A model of one op, made ready for a number of samples.

    Args:
        content: Bytes of the model.
        samples: Size of the first axis of what it reads, where the file says 1.
        execution: How it runs.

    Raises:
        ApplyError: LiteRT refuses it.
    """

    def __init__(self, content: bytes, samples: int, execution: Execution) -> None:
        self.seconds: list[float] = []
        self.resized = False
        self.typed = True
        rng = np.random.default_rng(0)
        try:
            self._interpreter = new_interpreter(content, execution.threads)
            details = self._interpreter.get_input_details()
            self.typed = all(detail["dtype"] in (np.float32, np.int8) for detail in details)
            if not self.typed:
                return
            for detail in details:
                shape = [int(size) for size in detail["shape"]]
                if samples > 1 and shape and shape[0] == 1:
                    self._interpreter.resize_tensor_input(detail["index"], [samples, *shape[1:]])
                    self.resized = True
            self._interpreter.allocate_tensors()
            for detail in self._interpreter.get_input_details():
                values = rng.integers(0, 100, detail["shape"]) if detail["dtype"] != np.float32 else None
                array = rng.random(detail["shape"]) if values is None else values
                self._interpreter.set_tensor(detail["index"], array.astype(detail["dtype"]))
        except (RuntimeError, ValueError) as error:
            raise ApplyError(f"LiteRT refuses an op by itself: {first_line(error)}") from error

    def call(self) -> None:
        """Run it once and note the time."""
        began = time.perf_counter()
        self._interpreter.invoke()
        self.seconds.append(time.perf_counter() - began)

    @property
    def typical(self) -> float:
        """The mean of the faster half of the calls: another process makes calls longer, never shorter."""
        kept = sorted(self.seconds[_WARMUP:])
        return float(np.mean(kept[: max(1, len(kept) // 2)]))


def conversion_seconds(model: TensorFlowModel, execution: Execution) -> Mapping[str, float]:
    """By op: seconds of turning what it writes for one sample into integers.

    Raises:
        ApplyError: LiteRT refuses the conversion.
    """
    sizes = {op.name: elements(model.graph, op.outputs[0]) for op in model.ops}
    overhead = _overhead(execution)
    found = {size: max(_timed_conversion(size, execution) - overhead, 0.0) for size in sorted(set(sizes.values()))}
    return {name: found[size] for name, size in sizes.items()}


def _timed_conversion(size: int, execution: Execution) -> float:
    timed = _Timed(_conversion(size), 1, execution)
    for _ in range(_WARMUP + _CALLS):
        timed.call()
    return timed.typical


def _overhead(execution: Execution) -> float:
    """Seconds of a call that has next to nothing to do."""
    return _timed_conversion(1, execution)


def _conversion(size: int) -> bytes:
    """The bytes of a model that turns ``size`` values of fp32 into int8."""
    graph = Graph.empty()
    source, target = graph.add_tensor((1, size), FLOAT32), graph.add_tensor((1, size), INT8)
    scheme = schema.QuantizationParametersT()
    scheme.scale, scheme.zeroPoint = [0.01], [0]
    graph.tensors[target].quantization = scheme
    graph.add_operator("QUANTIZE", [source], [target])
    graph.set_ends([source], [target])
    return graph.to_bytes()


def neighbours(model: TensorFlowModel) -> Mapping[str, Sequence[str]]:
    """By op: the ops that read its output, directly or through ops that keep the integers as they are."""
    graph = model.graph
    by_place = {op.place: op.name for op in model.ops}
    readers: dict[int, list[int]] = {}
    for place, operator in enumerate(graph.operators):
        for tensor in operator.inputs:
            readers.setdefault(int(tensor), []).append(place)
    return {op.name: _readers(graph, op, by_place, readers) for op in model.ops}


def _readers(
    graph: Graph, op: QuantizableOp, by_place: Mapping[int, str], readers: Mapping[int, list[int]]
) -> tuple[str, ...]:
    found: dict[str, None] = {}
    pending = list(op.outputs)
    while pending:
        for place in readers.get(pending.pop(), []):
            operator = graph.operators[place]
            if place in by_place:
                found[by_place[place]] = None
            elif graph.kind(operator) in FOLLOWING:
                pending += [int(each) for each in operator.outputs]
    return tuple(found)
