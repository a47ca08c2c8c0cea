"""Equalization of channels before anything is quantized, which leaves what the model computes in fp32 as it is."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autotune.adapter import Array
from autotune.adapters.mxnet.graph import Graph
from autotune.adapters.mxnet.model import MxnetModel
from autotune.algorithms.equalization import equalize
from autotune.calibration import CalibrationStatistics
from autotune.config import QuantizationConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Channels:
    """A model whose channels are as the recipe wants them.

    Attributes:
        model: To be quantized.
        reference: Computes in fp32 what the original computes, with the tensors of ``model``. The upper end of a clip
            whose channels were scaled is a minimum here, with one value per channel. ``model`` does without: no range
            reaches beyond the ends.
        statistics: Statistics of both, as far as scaling tells.
        ranges: ``(low, high)`` of the tensors whose range the recipe has chosen.
        notes: Pairs that were left as they are and why, a line each.
    """

    model: MxnetModel
    reference: MxnetModel
    statistics: CalibrationStatistics
    ranges: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...]


def prepare_channels(
    model: MxnetModel, config: QuantizationConfig, statistics: CalibrationStatistics, *, quantized: Collection[str]
) -> Channels:
    """Equalize channels before ranges are chosen.

    Args:
        model: The prepared fp32 model, which stays as it is.
        config: The candidate's config.
        statistics: Statistics of the fp32 model.
        quantized: The tensors that become integers.
    """
    if not config.recipe.equalization:
        return Channels(model=model, reference=model, statistics=statistics, ranges={}, notes=())
    found = equalize(model.layers, config, statistics, quantized=quantized)
    constants = {name: np.asarray(value, np.float32) for name, value in found.constants.items()}
    arguments = {**model.arguments, **constants}
    bounded, caps = _with_bounds(model.graph, found.bounds)
    open_ended, _ = _with_bounds(model.graph, dict.fromkeys(found.bounds))
    return Channels(
        model=replace(model, text=open_ended.text, arguments=arguments),
        reference=replace(model, text=bounded.text, arguments={**arguments, **caps}),
        statistics=found.statistics,
        ranges=found.ranges,
        notes=tuple(found.notes),
    )


def _with_bounds(graph: Graph, bounds: Mapping[str, Array | None]) -> tuple[Graph, dict[str, Array]]:
    """Put a Relu in place of clips, by the tensors that they write, and a minimum per channel where one is given.

    Returns:
        The symbol, and the constants that the minima read.
    """
    if not bounds:
        return graph, {}
    content = json.loads(graph.text)
    nodes: list[dict[str, Any]] = []
    places: list[int] = []  # by place of an old node: that of the node that writes the same now
    constants: dict[str, Array] = {}
    for place, node in enumerate(content["nodes"]):
        own = {**node, "inputs": [[places[entry[0]], *entry[1:]] for entry in node["inputs"]]}
        tensors = graph.tensors_of(place)
        if tensors[0] in bounds:
            own |= {"op": "Activation", "attrs": {"act_type": "relu"}}
            caps = bounds[tensors[0]]
            if caps is not None:
                bound = f"{node['name']}_bound"
                constants[bound] = np.asarray(caps, np.float32).reshape(1, -1, *[1] * 2)
                nodes += [{**own, "name": f"{node['name']}_open"}, {"op": "null", "name": bound, "inputs": []}]
                inputs = [[len(nodes) - 2, 0, 0], [len(nodes) - 1, 0, 0]]
                own = {"op": "broadcast_minimum", "name": node["name"], "inputs": inputs}
        places.append(len(nodes))
        nodes.append(own)
    heads = [[places[head[0]], *head[1:]] for head in content["heads"]]
    variables = [place for place, node in enumerate(nodes) if node["op"] == "null"]
    made = {"nodes": nodes, "arg_nodes": variables, "heads": heads, "attrs": content.get("attrs", {})}
    return Graph.parsed(made), constants
