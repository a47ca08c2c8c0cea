"""Branches that the shapes of the data choose between: exporters write an ``If`` around a Squeeze, or a whole LSTM.

Ops inside of an ``If`` cannot be quantized. Where its condition depends on shapes alone, and all of the data have
shapes with which it comes out the same, the branch that is taken stands in its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from autotune.adapter import Execution, Feeds
from autotune.adapters.onnx.graph import Graph, ancestors, outer_reads, subgraphs
from autotune.adapters.onnx.names import name_nodes, rename_reads
from autotune.adapters.onnx.rewriting import set_nodes
from autotune.adapters.onnx.session import open_session, session_options
from autotune.errors import ApplyError
from autotune.notes import listed

_WORTH_IT = frozenset({"Conv", "ConvTranspose", "Gemm", "LSTM", "MatMul"})
"""Ops for which branches are taken out: a model without any in a branch stays open to all shapes."""

_SHAPES = ("Shape", "Size")
_BY_VALUE = frozenset(
    {
        "Bernoulli",
        "Compress",
        "Loop",
        "Multinomial",
        "NonMaxSuppression",
        "NonZero",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Scan",
        "Unique",
    }
)
"""Ops whose outputs have a shape, or a value, that depends on more than the shapes that they read."""

_DEEP = 8
"""Greatest depth of branches within branches."""

_MOST_SHAPES = 64


class Shapes:
    """Batches of which each has other shapes than those before, out of all that pass by."""

    def __init__(self) -> None:
        self._seen: dict[object, Feeds] = {}

    def watch(self, batches: Iterable[Feeds]) -> Iterator[Feeds]:
        """The same batches, looked at."""
        for feeds in batches:
            shapes = tuple((name, np.shape(array)) for name, array in sorted(feeds.items()))
            self._seen.setdefault(shapes, feeds)
            yield feeds

    def all_of(self, batches: Iterable[Feeds]) -> None:
        """Look at the batches that nobody else reads."""
        deque(self.watch(batches), maxlen=0)

    @property
    def found(self) -> Sequence[Feeds]:
        """One batch of each kind; none where there are too many kinds for a model to be made for them."""
        return tuple(self._seen.values()) if len(self._seen) <= _MOST_SHAPES else ()


def chosen_by_shapes(proto: onnx.ModelProto) -> bool:
    """Whether ops that could be quantized lie in branches that shapes choose between."""
    return any(_is_worth_it(node) for node in _choices(Graph(proto)))


def take_branches(proto: onnx.ModelProto, batches: Sequence[Feeds], external_dir: Path | None) -> str | None:
    """Put the branch that all of the batches take in the place of each ``If`` that shapes decide.

    Args:
        proto: Changed in place.
        batches: One batch of each shape that occurs in the data.
        external_dir: Folder of the model's external data.

    Returns:
        A note for the user; None where nothing was decided.
    """
    taken: list[str] = []
    for _ in range(_DEEP if batches else 0):
        graph = Graph(proto)
        choices = _choices(graph)
        worth = [node for node in choices if _is_worth_it(node)]
        constant = {node.name for node in choices if not _shapes_behind(node.input[0], graph)}
        if not taken and all(node.name in constant for node in worth):
            choices = worth  # the rest may stay as general as it is
        decided = _decided(proto, [node.input[0] for node in choices], batches, external_dir) if choices else {}
        if not decided:
            break
        for node in choices:
            if node.input[0] in decided:
                _inline(proto, node, decided[node.input[0]])
                taken += [] if node.name in constant else [str(node.name)]
        _drop_unread(proto)
        name_nodes(proto)
    return _note(taken) if taken else None


def _note(taken: Sequence[str]) -> str:
    verb = "takes" if len(taken) == 1 else "take"
    return (
        f"With the shapes of all of the data, {listed(taken)} {verb} the same branch: the tuned model holds that one "
        "alone, and serves shapes that would take another one no more"
    )


def _choices(graph: Graph) -> list[onnx.NodeProto]:
    """Each ``If`` whose condition depends on shapes and constants alone."""
    return [node for node in graph.nodes if node.op_type == "If" and _shapes_behind(node.input[0], graph) is not None]


def _is_worth_it(node: onnx.NodeProto) -> bool:
    return any(each.op_type in _WORTH_IT or _is_worth_it(each) for inner in subgraphs(node) for each in inner.node)


def _shapes_behind(tensor: str, graph: Graph) -> set[str] | None:
    """The tensors whose shapes a tensor depends on; None where it depends on more than shapes and constants."""
    shapes: set[str] = set()
    for _, node in ancestors(tensor, graph, ends=_SHAPES):
        if node is None or node.op_type in _BY_VALUE:
            return None
        if node.op_type in _SHAPES:
            shapes.update(node.input)
    for name in shapes:
        for _, node in ancestors(name, graph):
            if node is not None and node.op_type in _BY_VALUE:
                return None
    return shapes


def _decided(
    proto: onnx.ModelProto, conditions: Sequence[str], batches: Sequence[Feeds], external_dir: Path | None
) -> dict[str, bool]:
    """By condition: its value, where that is the same for all of the batches, and for twice as many samples."""
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    del probe.graph.output[:]
    names = list(dict.fromkeys(conditions))
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = session_options(Execution())
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    values: dict[str, set[bool]] = {name: set() for name in names}
    try:
        session = open_session(probe, external_dir, options)
    except ApplyError:
        return {}  # what is refused here is refused, or mended, with a message where it is prepared
    for feeds in batches:
        for tried in (feeds, _doubled(feeds)):
            try:
                found = session.run(names, dict(tried))
            except Exception:  # ONNX Runtime's errors have no common root; not every model takes twice the samples
                if tried is feeds:
                    return {}
                continue
            for name, value in zip(names, found, strict=True):
                values[name].add(bool(np.asarray(value).reshape(-1)[0]))
    return {name: found.pop() for name, found in values.items() if len(found) == 1}


def _doubled(feeds: Feeds) -> Feeds:
    return {name: np.concatenate([array, array]) if np.ndim(array) else array for name, array in feeds.items()}


def _inline(proto: onnx.ModelProto, node: onnx.NodeProto, condition: bool) -> None:
    wanted = "then_branch" if condition else "else_branch"
    branch = onnx.GraphProto()
    branch.CopyFrom(next(attribute.g for attribute in node.attribute if attribute.name == wanted))
    index = next(i for i, each in enumerate(proto.graph.node) if each.output[:] == node.output[:])
    del proto.graph.node[index]
    taken = _defined(proto.graph)
    own = [name for each in branch.node for name in each.output if name]
    own += [tensor.name for tensor in branch.initializer]
    renamed = {name: _free(f"{node.name}/{name}", taken) for name in own if name in taken}
    rename_reads(branch, renamed)
    for each in branch.node:
        each.output[:] = [renamed.get(name, name) for name in each.output]
    for tensor in branch.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    passed = [
        onnx.helper.make_node("Identity", [renamed.get(value.name, value.name)], [name], f"{node.name}/{position}")
        for position, (value, name) in enumerate(zip(branch.output, node.output, strict=True))
        if name
    ]
    rest = list(proto.graph.node)[index:]
    del proto.graph.node[index:]
    proto.graph.node.extend([*branch.node, *passed, *rest])
    proto.graph.initializer.extend(branch.initializer)


def _drop_unread(proto: onnx.ModelProto) -> None:
    """Take out what computed the conditions alone."""
    wanted = {value.name for value in proto.graph.output}
    kept = []
    for node in reversed(proto.graph.node):
        if not wanted.isdisjoint(node.output):
            wanted.update((*node.input, *outer_reads(node)))
            kept.append(node)
    set_nodes(proto, reversed(kept))


def _defined(graph: onnx.GraphProto) -> set[str]:
    """Names of all tensors of a graph, those of the graphs inside of its nodes included."""
    names = {value.name for value in (*graph.input, *graph.initializer)}
    for node in graph.node:
        names.update(node.output)
        for inner in subgraphs(node):
            names |= _defined(inner)
    return names


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
