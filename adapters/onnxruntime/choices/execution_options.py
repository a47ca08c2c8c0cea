"""Execution options: what changes how a candidate runs and, but for rounding, nothing of what it computes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnx.session import asked_at_load, optimized_graph
from autotune.adapters.onnxruntime.choices.ops import QuantizableOp
from autotune.config import GraphFormat, GraphOptimization, Recipe
from autotune.errors import ModelError

METADATA_KEY = "autotune:optimization"
"""Where a saved model says how it was run when it was measured."""

_ORT_CONFIG_KEY = "ort_config"
"""Session options that ONNX Runtime itself takes from a model where ``ORT_LOAD_CONFIG_FROM_MODEL`` is 1."""

_EXTENDED_LEVEL = 2

_GELU = frozenset({"Gelu", "Erf", "BiasGelu"})


def finish(candidate: OnnxModel, recipe: Recipe) -> OnnxModel:
    """The candidate in the format and with the optimization that the recipe wants.

    The integer kernels of ``GraphFormat.QOPERATOR`` are ONNX Runtime's own choice: it loads the QDQ model, up to what
    depends on the CPU's memory layout, and writes down the graph that it has then.
    """
    candidate = dataclasses.replace(candidate, optimization=recipe.optimization)
    line = asked_at_load(recipe.optimization)
    if line is not None:
        note = f"The model was measured with other session options than ONNX Runtime's defaults: {line}"
        candidate = dataclasses.replace(candidate, notes=(*candidate.notes, note))
    if recipe.format is GraphFormat.QDQ:
        return candidate
    if candidate.external_dir is not None:
        note = "The model stays in QDQ format: its weights exceed 2 GB, and would have to be written a second time"
        return dataclasses.replace(candidate, notes=(*candidate.notes, note))
    return dataclasses.replace(candidate, proto=optimized_graph(candidate.proto))


def formats(ops: Sequence[QuantizableOp]) -> tuple[GraphFormat, ...]:
    """The formats to offer for a model with these ops, preferred ones first."""
    return (GraphFormat.QDQ, GraphFormat.QOPERATOR) if ops else (GraphFormat.QDQ,)


def optimizations(graph: Graph) -> tuple[GraphOptimization, ...]:
    """The optimizations that can make a difference to a graph, preferred ones first."""
    types = {node.op_type for node in graph.nodes}
    offered = [GraphOptimization.ALL]
    if "Conv" in types:
        offered += [GraphOptimization.PLAIN_LAYOUT, GraphOptimization.EXTENDED]
    if not types.isdisjoint(_GELU):
        offered.append(GraphOptimization.GELU_APPROXIMATION)
    return tuple(offered)


def to_metadata(optimization: GraphOptimization) -> dict[str, str]:
    """What a saved model says of its optimization; nothing where it is ONNX Runtime's default."""
    if optimization is GraphOptimization.ALL:
        return {}
    metadata = {METADATA_KEY: str(optimization)}
    if optimization is GraphOptimization.EXTENDED:
        config = {"session_options": {"graph_optimization_level": _EXTENDED_LEVEL}}
        metadata[_ORT_CONFIG_KEY] = json.dumps(config)
    return metadata


def from_metadata(metadata: Mapping[str, str]) -> GraphOptimization:
    """What :func:`to_metadata` wrote; the default where it is missing.

    Raises:
        ModelError: It is none that is known here.
    """
    value = metadata.get(METADATA_KEY, str(GraphOptimization.ALL))
    try:
        return GraphOptimization(value)
    except ValueError:
        raise ModelError(
            f"The metadata {METADATA_KEY!r} of a model must be one of {', '.join(GraphOptimization)}, but it is "
            f"{value!r}. Remove it, or load the model with the version that wrote it"
        ) from None
