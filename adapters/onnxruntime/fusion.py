"""Join operators that an exporter wrote out, before anything is quantized: LayerNormalization, GELU and attention.

What is joined is one op, and one op is all that the space offers. LayerNormalization and GELU become standard operators
where the model's opset has them; attention, and the two in older models, become ONNX Runtime's own. The matrix products
around an attention stay as they are, so that each has its own choice. The fused model must give what the original gives
on inputs made up for it; a kind of operator for which it does not stays as exported.

Residual Add and LayerNormalization are not joined: ONNX Runtime's ``SkipLayerNormalization`` was measured at five times
the time of the two (150 us instead of 30 for 64 x 384 values). Biases are fused by ONNX Runtime itself.

``onnxruntime.transformers`` was measured against this (docs/recipes.md): it needs torch, and from the user the model's
family and sizes, and leaves attention of PyTorch's current exporter as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import numpy as np
import onnx
from onnx import helper, numpy_helper

from autotune.adapter import Array, Execution, Feeds, TensorSpec
from autotune.adapters.onnxruntime.attention import Attention, find_attention
from autotune.adapters.onnxruntime.decomposed import (
    GELU_OPSET,
    LAYER_NORMALIZATION_OPSET,
    Decomposed,
    find_gelus,
    find_layer_normalizations,
)
from autotune.adapters.onnxruntime.graph import Graph
from autotune.adapters.onnxruntime.model import OnnxModel
from autotune.adapters.onnxruntime.rewriting import CONTRIB_DOMAIN, drop_unread, replace_nodes, require_contrib_domain
from autotune.adapters.onnxruntime.session import SessionRunner, open_session, session_options
from autotune.errors import ApplyError

TOLERANCE = 1e-4
"""Largest difference that a fusion may make, as a share of the output's largest magnitude."""

_LENGTHS = (2, 7, 11, 13, 5, 3)
"""Sizes of free dimensions in the order in which their names come: all different, so that none passes for another."""


def fuse(model: OnnxModel) -> OnnxModel:
    """The model with what was written out joined; the same model where there is nothing of the kind.

    Args:
        model: Its tensors' types and shapes are known, as far as they can be.
    """
    reference = _Reference(model)
    for kind in _KINDS:
        model = _join(model, kind, reference)
    return _fuse_attention(model, reference)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Kind:
    """An operator that exporters write out.

    Attributes:
        name: What it is called.
        find: All of them in a graph.
        opset: From which on it is a standard operator.
    """

    name: str
    find: Callable[[Graph], list[Decomposed]]
    opset: int


_KINDS = (
    _Kind(name="LayerNormalization", find=find_layer_normalizations, opset=LAYER_NORMALIZATION_OPSET),
    _Kind(name="Gelu", find=find_gelus, opset=GELU_OPSET),
)


def _join(model: OnnxModel, kind: _Kind, reference: _Reference) -> OnnxModel:
    graph = Graph(model.proto)
    found = kind.find(graph)
    if not found:
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    proto.graph.initializer.extend(tensor for each in found for tensor in each.constants)
    replace_nodes(proto, {each.last.name: [each.fused] for each in found})
    _drop_dead(proto)
    if any(each.fused.domain == CONTRIB_DOMAIN for each in found):
        require_contrib_domain(proto)
    what = f"{len(found)} {kind.name}, written out in smaller operators,"
    reason = reference.difference(proto)
    if reason is not None:
        return _with_note(model, f"{what} could be fused, but stay as exported: {reason}")
    model = dataclasses.replace(model, proto=proto)
    if graph.opset >= kind.opset:
        return model
    return _with_note(
        model,
        f"{what} fused into operators of ONNX Runtime's own: the tuned model runs nowhere else. Export it with opset "
        f"{kind.opset} or newer, which has {kind.name}",
    )


def _with_note(model: OnnxModel, note: str) -> OnnxModel:
    return dataclasses.replace(model, notes=(*model.notes, note))


def _fuse_attention(model: OnnxModel, reference: _Reference) -> OnnxModel:
    attentions = find_attention(Graph(model.proto))
    if not attentions:
        return model
    what = f"{len(attentions)} attention" + ("s" if len(attentions) > 1 else "")
    for expand in (False, True):
        proto = _fused(model.proto, attentions, expand=expand)
        reason = reference.difference(proto)
        if reason is None:
            break
    else:
        return _with_note(model, f"{what} could be fused, but stay as exported: {reason}")
    note = f"{what} fused into MultiHeadAttention, an operator of ONNX Runtime's own: the tuned model runs nowhere else"
    return _with_note(dataclasses.replace(model, proto=proto), note)


def _fused(original: onnx.ModelProto, attentions: Sequence[Attention], *, expand: bool) -> onnx.ModelProto:
    """The graph with its attentions replaced.

    Args:
        original: Left as it is.
        attentions: Of it.
        expand: Whether what is added to the scores has one row for all positions, which the operator wants repeated.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(original)
    expanded: set[str] = set()
    replacements = {each.last.name: _attention_nodes(proto, each, expanded if expand else None) for each in attentions}
    replace_nodes(proto, replacements)
    _drop_dead(proto)
    require_contrib_domain(proto)
    return proto


def _attention_nodes(proto: onnx.ModelProto, attention: Attention, expanded: set[str] | None) -> list[onnx.NodeProto]:
    name, output = attention.last.name, attention.last.output[0]
    fused = f"{output}/unguarded" if attention.guarded else output
    inputs = [attention.query, attention.key, attention.value]
    nodes = []
    if attention.bias is not None:
        bias = attention.bias if expanded is None else f"{attention.bias}/rows"
        inputs += ["", "", bias]
        if expanded is not None and bias not in expanded:
            expanded.add(bias)
            nodes += _rows(proto, attention.bias, attention.query, bias)
    nodes.append(
        helper.make_node(
            "MultiHeadAttention",
            inputs,
            [fused],
            name,
            domain=CONTRIB_DOMAIN,
            num_heads=attention.heads,
            scale=attention.scale,
        )
    )
    if attention.guarded:
        # On the result, which is smaller than the scores by the length of the sequence over the size of a head.
        zero = f"{name}/zero"
        proto.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), zero))
        nodes.append(helper.make_node("IsNaN", [fused], [f"{fused}/is_nan"], f"{name}/is_nan"))
        nodes.append(helper.make_node("Where", [f"{fused}/is_nan", zero, fused], [output], f"{name}/guard"))
    return nodes


def _rows(proto: onnx.ModelProto, bias: str, query: str, output: str) -> list[onnx.NodeProto]:
    """Repeat a bias of shape (batch or 1, heads or 1, 1, keys) for each row of the scores."""
    for name, values in ((f"{output}/one", [1]), (f"{output}/two", [1, 1])):
        proto.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return [
        helper.make_node("Shape", [query], [f"{output}/dims"], f"{output}/dims"),
        helper.make_node("Gather", [f"{output}/dims", f"{output}/one"], [f"{output}/length"], f"{output}/length"),
        helper.make_node(
            "Concat", [f"{output}/two", f"{output}/length", f"{output}/one"], [f"{output}/to"], f"{output}/to", axis=0
        ),
        helper.make_node("Expand", [bias, f"{output}/to"], [output], f"{output}/expand"),
    ]


def _drop_dead(proto: onnx.ModelProto) -> None:
    """Drop nodes that nobody reads, what only they read, and the types of tensors that are gone."""
    graph = Graph(proto)
    needed = graph.outputs | graph.read_by_subgraphs
    kept = []
    for node in reversed(graph.nodes):
        if any(name in needed for name in node.output):
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
            needed.update(name for name in node.input if name)
    constants = set(graph.initializers)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(kept))
    drop_unread(proto, constants)
    values = [value for value in proto.graph.value_info if value.name in needed]
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in values]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(copies)


class _Reference:
    """What the original model gives on made-up inputs; it is run when the first answer is needed.

    Args:
        model: The original. All fusions together are held against it, so that their differences do not add up.
    """

    def __init__(self, model: OnnxModel) -> None:
        self._model = model

    @cached_property
    def _expected(self) -> list[tuple[Feeds, tuple[Array, ...]]]:
        runner = self._runner(self._model.proto)
        return [(feeds, runner(feeds)) for feeds in _made_up_feeds(self._model.inputs)]

    def difference(self, proto: onnx.ModelProto) -> str | None:
        """Why a fused model may not take the place of the original; None where it may."""
        try:
            runner = self._runner(proto)
            for feeds, outputs in self._expected:
                for expected, actual in zip(outputs, runner(feeds), strict=True):
                    error = relative_difference(expected, actual)
                    if not error <= TOLERANCE:
                        return f"outputs would change by {error:.1e} relative, and {TOLERANCE:.0e} is the limit"
        except ApplyError as error:
            return f"whether the outputs stay the same could not be found out on made-up inputs ({error})"
        return None

    def _runner(self, proto: onnx.ModelProto) -> SessionRunner:
        return SessionRunner(open_session(proto, self._model.external_dir, session_options(Execution())))


def relative_difference(expected: Array, actual: Array) -> float:
    """The largest difference as a share of the largest finite magnitude; infinite where shapes or NaNs differ."""
    if expected.shape != actual.shape or not np.array_equal(np.isnan(expected), np.isnan(actual)):
        return float("inf")
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite & ~np.isnan(expected)], actual[~finite & ~np.isnan(actual)]):
        return float("inf")
    difference = np.abs(expected[finite].astype(np.float64) - actual[finite].astype(np.float64)).max(initial=0.0)
    magnitude = np.abs(expected[finite].astype(np.float64)).max(initial=0.0)
    return float(difference / magnitude) if magnitude else float(difference)


def _made_up_feeds(inputs: tuple[TensorSpec, ...]) -> Iterator[Feeds]:
    """Batches that any embedding can look up and that mask some positions: integers are 0 or 1."""
    for seed, ones in ((0, 1.0), (1, 0.7)):
        rng = np.random.default_rng(seed)
        lengths: dict[str, int] = {}
        feeds: dict[str, Array] = {}
        for spec in inputs:
            shape = tuple(_length(spec, axis, lengths) for axis in range(len(spec.shape)))
            if spec.dtype.kind == "f":
                feeds[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
            else:
                feeds[spec.name] = (rng.random(shape) < ones).astype(spec.dtype)
        yield feeds


def _length(spec: TensorSpec, axis: int, lengths: dict[str, int]) -> int:
    size = spec.shape[axis]
    if isinstance(size, int):
        return size
    name = size or f"{spec.name}/{axis}"
    return lengths.setdefault(name, _LENGTHS[len(lengths) % len(_LENGTHS)])
