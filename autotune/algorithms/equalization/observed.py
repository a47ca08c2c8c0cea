"""The tensors that calibration has to observe so that channels can be equalized."""

from __future__ import annotations

from autotune.algorithms.equalization.pairs import find_pairs
from autotune.algorithms.equalization.streams import find_streams
from autotune.algorithms.graph import Connections, Layer, LayerGraph


def observed_tensors(graph: LayerGraph) -> tuple[str, ...]:
    """The tensors of whose channels :func:`.equalize` asks for moments along axis 1, whichever layers become int8.

    For an adapter that calibrates with no more tensors than it has to.
    """
    connections = Connections(graph.nodes, graph.outputs)
    layers = [node for node in graph.nodes if isinstance(node, Layer)]
    names = {layer.name for layer in layers}
    streams, _ = find_streams(connections, graph.constants, layers, names)
    found = dict.fromkeys(name for stream in streams for name in stream.tensors)
    pairs, _ = find_pairs(connections, layers, names, tied=set(found))
    for pair in pairs:
        found[pair.read] = None
        if pair.activation is not None and not pair.padded:  # where an offset can be absorbed
            found[pair.written] = None
    return tuple(found)
