"""The time of each op, from ONNX Runtime's own profile of whole models."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from autotune.adapter import Execution, Feeds
from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnx.session import open_session, session_options
from autotune.adapters.onnxruntime.choices.ops import CLIPS, FOLLOWERS, QuantizableOp
from autotune.adapters.onnxruntime.dynamic.quantize import DYNAMIC_PARTS
from autotune.owned_folder import OwnedFolder

_CALLS = 8
_WARMUP = 3
_QUARTER = 0.25
"""A kernel's time is the lower quartile of its calls: another process makes calls longer, never shorter."""
_KERNEL = "_kernel_time"
_FUSED = "fused "
"""Prefix of the name of a Gemm whose activation is computed with it."""
# Suffixes that ONNX Runtime appends to a node's name when it fuses it or changes its memory layout.
_RENAMED = re.compile(r"(_nchwc|_token_\d+)+$")


def profile(
    models: Sequence[OnnxModel], feeds: Feeds, execution: Execution, *, optimize: bool = True
) -> list[Mapping[str, float]]:
    """Seconds of each node that has a kernel of its own in one call, the lower quartile over calls.

    The models are run in turn, so that a machine that changes its speed changes it for all of them.

    Args:
        models: Candidates of one fp32 model, itself included.
        feeds: A batch.
        execution: How they run.
        optimize: Whether ONNX Runtime may change the graph.

    Returns:
        By model, by the name of the node that the kernel was made from. Several kernels of one node add up.

    Raises:
        ApplyError: ONNX Runtime refuses a model.
    """
    with OwnedFolder() as folder:
        sessions = []
        for index, model in enumerate(models):
            options = session_options(execution, model.optimization)
            options.enable_profiling = True
            if not optimize:
                options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.profile_file_prefix = str(Path(folder) / str(index))
            sessions.append(open_session(model.proto, model.external_dir, options))
        for _ in range(_WARMUP + _CALLS):
            for session in sessions:
                session.run(None, dict(feeds))
        return [_kernel_seconds(session) for session in sessions]


def _kernel_seconds(session: onnxruntime.InferenceSession) -> dict[str, float]:
    events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
    calls: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            calls[event["name"].removesuffix(_KERNEL)].append(event["dur"] * 1e-6)
    seconds: dict[str, float] = defaultdict(float)
    for name, durations in calls.items():
        seconds[_RENAMED.sub("", name)] += float(np.quantile(durations[_WARMUP:], _QUARTER))
    return dict(seconds)


def by_op(seconds: Mapping[str, float], graph: Graph, ops: Sequence[QuantizableOp]) -> dict[str, float]:
    """The same by op.

    A kernel bears the name of its node or, in the blocked memory layout, of the tensor that it writes; and a Relu or
    Clip that was fused with the op before it gives its own. The kernels of a dynamic op add up; the quantization of its
    input counts where ONNX Runtime fused it with the MatMul, and with the first convolution that reads it.
    """
    names = {op.name for op in ops}
    nodes = {node.name: node for node in graph.nodes}
    found: dict[str, float] = defaultdict(float)
    for name, value in seconds.items():
        own = nodes.get(name) or graph.producers.get(name)
        owner: onnx.NodeProto | None = own or nodes.get(_without_part(name.removeprefix(_FUSED)))
        if owner is not None and owner.name not in names and owner.op_type in CLIPS:
            owner = graph.producers.get(owner.input[0])
        if owner is not None and owner.name in names:
            found[owner.name] += value
    return dict(found)


def _without_part(name: str) -> str:
    """The op that a node of a dynamic op, which is several, belongs to."""
    return next((name.removesuffix(part) for part in DYNAMIC_PARTS if name.endswith(part)), name)


def conversion_seconds(sizes: Sequence[int], execution: Execution) -> Mapping[int, float]:
    """Seconds of one QuantizeLinear or DequantizeLinear, their mean, over a float32 tensor, by its number of elements.

    Raises:
        ApplyError: ONNX Runtime refuses the model.
    """
    distinct = sorted(set(sizes))
    if not distinct:
        return {}
    nodes, inputs, outputs = [], [], []
    for size in distinct:
        nodes.append(helper.make_node("QuantizeLinear", [f"x{size}", "scale", "zero"], [f"i{size}"], f"q{size}"))
        nodes.append(helper.make_node("DequantizeLinear", [f"i{size}", "scale", "zero"], [f"r{size}"], f"dq{size}"))
        # Only a number leaves the graph: memory for large outputs is new in every call, and costs more than the pair.
        nodes.append(helper.make_node("ReduceMax", [f"r{size}"], [f"y{size}"], f"max{size}"))
        inputs.append(helper.make_tensor_value_info(f"x{size}", TensorProto.FLOAT, [size]))
        outputs.append(helper.make_tensor_value_info(f"y{size}", TensorProto.FLOAT, [1]))
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [0.05]),
        helper.make_tensor("zero", TensorProto.UINT8, [], [128]),
    ]
    graph = helper.make_graph(nodes, "conversions", inputs, outputs, constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    model = OnnxModel(proto=proto, external_dir=None)
    rng = np.random.default_rng(0)
    feeds = {f"x{size}": rng.standard_normal(size, dtype=np.float32) for size in distinct}
    (seconds,) = profile([model], feeds, execution, optimize=False)
    return {size: (seconds.get(f"q{size}", 0.0) + seconds.get(f"dq{size}", 0.0)) / 2 for size in distinct}


def neighbours(graph: Graph, ops: Sequence[QuantizableOp]) -> dict[str, tuple[str, ...]]:
    """By op: the ops that read its output, directly or through nodes that keep the integers as they are."""
    names = {op.name for op in ops}
    found: dict[str, tuple[str, ...]] = {}
    for op in ops:
        readers: dict[str, None] = {}
        pending = [op.output]
        while pending:
            for node in graph.readers.get(pending.pop(), ()):
                if node.name in names:
                    readers[node.name] = None
                elif node.op_type in CLIPS or node.op_type in FOLLOWERS:
                    pending.extend(name for name in node.output if name)
        found[op.name] = tuple(readers)
    return found
