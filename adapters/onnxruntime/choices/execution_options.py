"""Execution options: what changes how a candidate runs and, but for rounding, nothing of what it computes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnx.options import GraphFormat, GraphOptimization
from autotune.adapters.onnx.session import asked_at_load, optimized_graph
from autotune.adapters.onnxruntime.choices.ops import QuantizableOp
from autotune.config import Recipe
from autotune.errors import ModelError
from autotune.options import AdapterOption, Touches, require_declared

FORMAT = AdapterOption(
    name="format",
    values=tuple(GraphFormat),
    default=GraphFormat.QDQ,
    touches=Touches.KERNELS,
    description="How int8 ops are written into the graph.",
)
OPTIMIZATION = AdapterOption(
    name="optimization",
    values=tuple(GraphOptimization),
    default=GraphOptimization.ALL,
    touches=Touches.KERNELS,
    description="How far ONNX Runtime optimizes the graph when it loads it.",
)
OPTIONS = (FORMAT, OPTIMIZATION)
"""Options that the ONNX Runtime adapter declares; see :class:`autotune.adapter.DeclaresOptions`."""

METADATA_KEY = "autotune:optimization"
"""Metadata key under which a saved model says how it was run when it was measured."""

_ORT_CONFIG_KEY = "ort_config"
"""Session options that ONNX Runtime itself takes from a model where ``ORT_LOAD_CONFIG_FROM_MODEL`` is 1."""

_EXTENDED_LEVEL = 2

_GELU = frozenset({"Gelu", "Erf", "BiasGelu"})


def finish(candidate: OnnxModel, recipe: Recipe) -> OnnxModel:
    """The candidate in the format and with the optimization that the recipe wants.

    The integer kernels of ``GraphFormat.QOPERATOR`` are ONNX Runtime's own choice: it loads the QDQ model, up to what
    depends on the CPU's memory layout, and writes down the graph that it has then.
    """
    require_declared(recipe.options, OPTIONS)
    optimization = GraphOptimization(OPTIMIZATION.of(recipe.options))
    candidate = dataclasses.replace(candidate, optimization=optimization)
    line = asked_at_load(optimization)
    if line is not None:
        note = f"The model was measured with other session options than ONNX Runtime's defaults: {line}"
        candidate = dataclasses.replace(candidate, notes=(*candidate.notes, note))
    if FORMAT.of(recipe.options) == GraphFormat.QDQ:
        return candidate
    if candidate.external_dir is not None:
        note = "The model stays in QDQ format: its weights exceed 2 GB, and would have to be written a second time"
        return dataclasses.replace(candidate, notes=(*candidate.notes, note))
    return dataclasses.replace(candidate, proto=optimized_graph(candidate.proto))


def offered_options(graph: Graph, ops: Sequence[QuantizableOp]) -> tuple[AdapterOption, ...]:
    """The options of a graph with these ops."""
    if not ops:
        return FORMAT.offering(GraphFormat.QDQ), OPTIMIZATION.offering(GraphOptimization.ALL)
    return FORMAT, OPTIMIZATION.offering(*_optimizations(graph))


def _optimizations(graph: Graph) -> tuple[GraphOptimization, ...]:
    """The optimizations that can make a difference to a graph, preferred ones first."""
    types = {node.op_type for node in graph.nodes}
    offered = [GraphOptimization.ALL]
    if "Conv" in types:
        offered += [GraphOptimization.PLAIN_LAYOUT, GraphOptimization.EXTENDED]
    if not types.isdisjoint(_GELU):
        offered.append(GraphOptimization.GELU_APPROXIMATION)
    return tuple(offered)


def to_metadata(optimization: GraphOptimization) -> dict[str, str]:
    """The metadata that a saved model has of its optimization; empty where it is ONNX Runtime's default."""
    if optimization is GraphOptimization.ALL:
        return {}
    metadata = {METADATA_KEY: str(optimization)}
    if optimization is GraphOptimization.EXTENDED:
        config = {"session_options": {"graph_optimization_level": _EXTENDED_LEVEL}}
        metadata[_ORT_CONFIG_KEY] = json.dumps(config)
    return metadata


def from_metadata(metadata: Mapping[str, str]) -> GraphOptimization:
    """Read the value that :func:`to_metadata` wrote; the default where it is missing.

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
