"""The work of every step that handles a graph grows with the graph and no faster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import onnx
import pytest

from autotune.adapters.onnx.rewriting import sort_nodes
from autotune.adapters.onnxruntime import OnnxRuntimeAdapter
from autotune.config import Precision, QuantizationConfig
from autotune.garbage import uncollected
from tests.adapters.onnx.graphs import build, image_batches, node, normal

ADAPTER = OnnxRuntimeAdapter()


def steps(work: Callable[[], Any]) -> int:
    """Python's own instructions that some work takes: a measure of it that no load of the machine changes."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    with uncollected():  # what others do at each collection, as Hypothesis does, is no part of the work
        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(before)
    return count


def chain(ops: int) -> onnx.ModelProto:
    """``ops`` groups of convolution, Clip whose bounds all share, and addition."""
    nodes, tensor = [], "x"
    constants = {"low": np.array(-2, np.float32), "high": np.array(2, np.float32)}
    for index in range(ops):
        constants |= {f"w{index}": normal(3, 3, 1, 1, seed=index), f"b{index}": normal(3, seed=index)}
        nodes += [
            node("Conv", f"{tensor} w{index} b{index}", f"c{index}"),
            node("Clip", f"c{index} low high", f"k{index}"),
            node("Add", f"k{index} {tensor}", f"s{index}"),
            node("Relu", f"s{index}", f"r{index}"),
        ]
        tensor = f"r{index}"
    return build(nodes, {"x": ("N", 3, 4, 4)}, {tensor: None}, constants)


def matmuls(ops: int) -> onnx.ModelProto:
    """``ops`` groups of product, bias, Relu, a node that goes along, and addition."""
    nodes, tensor = [], "x"
    constants = {"shape": np.array([0, 8], np.int64)}
    for index in range(ops):
        constants |= {f"w{index}": normal(8, 8, seed=index), f"b{index}": normal(8, seed=index)}
        nodes += [
            node("MatMul", f"{tensor} w{index}", f"m{index}"),
            node("Add", f"m{index} b{index}", f"a{index}"),
            node("Relu", f"a{index}", f"r{index}"),
            node("Reshape", f"r{index} shape", f"s{index}"),
            node("Add", f"s{index} {tensor}", f"t{index}"),
        ]
        tensor = f"t{index}"
    return build(nodes, {"x": ("N", 8)}, {tensor: ("N", 8)}, constants)


def wide(ops: int) -> onnx.ModelProto:
    """``ops`` convolutions that meet in one Concat."""
    nodes, constants = [], {}
    for index in range(ops):
        constants[f"w{index}"] = normal(3, 3, 1, 1, seed=index)
        nodes += [node("Conv", f"x w{index}", f"c{index}"), node("Relu", f"c{index}", f"r{index}")]
    nodes.append(node("Concat", " ".join(f"r{index}" for index in range(ops)), "joined", axis=1))
    return build(nodes, {"x": ("N", 3, 4, 4)}, {"joined": None}, constants)


MODELS: dict[str, tuple[Callable[[int], onnx.ModelProto], tuple[int, ...]]] = {
    "chain": (chain, (3, 4, 4)),
    "MatMuls": (matmuls, (8,)),
    "wide": (wide, (3, 4, 4)),
}


@pytest.mark.parametrize("name", MODELS)
def test_loading_and_making_a_candidate_grow_with_the_graph_and_no_faster(name: str) -> None:
    make, shape = MODELS[name]

    def work(ops: int) -> dict[str, int]:
        proto = make(ops)
        model = ADAPTER.load(proto)
        space = ADAPTER.space(model)
        statistics = ADAPTER.calibrate(model, image_batches(1, size=2, shape=shape), seed=0)
        configs = {"preferred": space.preferred}
        for precision in (Precision.INT8, Precision.INT8_DYNAMIC):
            offered = {op.name: w.preferred for op in space.tunable for w in op.precisions if w.precision is precision}
            configs[str(precision)] = QuantizationConfig(ops=offered)
        found = {"load": steps(lambda: ADAPTER.load(proto)), "space": steps(lambda: ADAPTER.space(model))}
        for what, config in configs.items():
            candidate = ADAPTER.apply(model, config, statistics)  # ranges and the like are computed once
            found[what] = steps(lambda config=config: ADAPTER.apply(model, config, statistics))  # type: ignore[misc]
            found[f"saturation of {what}"] = steps(lambda each=candidate: ADAPTER.saturating_ops(each))  # type: ignore[misc]
        found["neighbours"] = steps(lambda: ADAPTER.neighbours(model))
        return found

    few, many = work(10), work(40)
    assert {what: round(many[what] / few[what], 1) for what in few if many[what] > 4.4 * few[what]} == {}


def test_a_long_chain_in_any_order_is_sorted_in_one_pass() -> None:
    """Sorting follows a path as long as the chain where every node comes before what it reads."""

    def work(ops: int) -> int:
        model = chain(ops)
        nodes = [onnx.NodeProto.FromString(each.SerializeToString()) for each in reversed(model.graph.node)]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        count = steps(lambda: sort_nodes(model))
        written = {"x"} | {tensor.name for tensor in model.graph.initializer}
        for each in model.graph.node:
            assert written.issuperset(each.input)
            written.update(each.output)
        return count

    assert work(200) < 4.4 * work(50)
