"""Join operators that an exporter wrote out, before anything is quantized: LayerNormalization, GELU and attention.

A joined pattern is one op, and one op is all that the space offers. LayerNormalization and GELU become standard
operators where the model's opset has them; attention, and the two in older models, become ONNX Runtime's own. The
matrix products around an attention stay as they are, so that each has its own choice. The fused model must give what
the original gives on inputs made up for it; a kind of operator for which it does not stays as exported.

Residual Add and LayerNormalization are not joined: ONNX Runtime's ``SkipLayerNormalization`` was measured at five times
the time of the two (150 us instead of 30 for 64 x 384 values). Biases are fused by ONNX Runtime itself.

``onnxruntime.transformers`` was measured against this (docs/recipes.md): it needs torch, and from the user the model's
family and sizes, and leaves attention of PyTorch's current exporter as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper

from autotune.adapters.onnx.attention import Attention, find_attention
from autotune.adapters.onnx.compare import TOLERANCE, Reference, Unknown
from autotune.adapters.onnx.decomposed import (
    GELU_OPSET,
    LAYER_NORMALIZATION_OPSET,
    Decomposed,
    find_gelus,
    find_layer_normalizations,
)
from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnx.rewriting import (
    CONTRIB_DOMAIN,
    add_constant,
    drop_unread,
    replace_nodes,
    require_contrib_domain,
    set_nodes,
)
from autotune.errors import ApplyError


def fuse(model: OnnxModel, reference: Reference) -> OnnxModel:
    """The model with what was written out joined; the same model where there is nothing of the kind.

    Args:
        model: Its tensors' types and shapes are known, as far as they can be.
        reference: Outputs of the user's model.
    """
    for kind in _KINDS:
        model = _join(model, kind, reference)
    return _fuse_attention(model, reference)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Kind:
    """An operator that exporters write out.

    Attributes:
        name: Name of the pattern.
        find: All of them in a graph.
        opset: First opset in which it is a standard operator.
    """

    name: str
    find: Callable[[Graph], list[Decomposed]]
    opset: int


_KINDS = (
    _Kind(name="LayerNormalization", find=find_layer_normalizations, opset=LAYER_NORMALIZATION_OPSET),
    _Kind(name="Gelu", find=find_gelus, opset=GELU_OPSET),
)


def _join(model: OnnxModel, kind: _Kind, reference: Reference) -> OnnxModel:
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
    reason = _difference(model, proto, reference)
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


def _difference(model: OnnxModel, proto: onnx.ModelProto, reference: Reference) -> str | None:
    """Why a fused graph may not take the place of what the user's model computes; None where it may."""
    try:
        error = reference.error(dataclasses.replace(model, proto=proto))
    except (Unknown, ApplyError) as failure:
        kind = "made-up inputs" if reference.made_up else "the given data"
        return f"whether the outputs stay the same could not be found out on {kind} ({failure})"
    if error <= TOLERANCE:
        return None
    return f"outputs would change by {error:.1e} relative, and {TOLERANCE:.0e} is the limit"


def _with_note(model: OnnxModel, note: str) -> OnnxModel:
    return dataclasses.replace(model, notes=(*model.notes, note))


def _fuse_attention(model: OnnxModel, reference: Reference) -> OnnxModel:
    attentions = find_attention(Graph(model.proto))
    if not attentions:
        return model
    what = f"{len(attentions)} attention" + ("s" if len(attentions) > 1 else "")
    for expand in (False, True):
        proto = _fused(model.proto, attentions, expand=expand)
        reason = _difference(model, proto, reference)
        if reason is None:
            break
    else:
        return _with_note(model, f"{what} could be fused, but stay as exported: {reason}")
    note = f"{what} fused into MultiHeadAttention, an operator of ONNX Runtime's own: the tuned model runs nowhere else"
    return _with_note(dataclasses.replace(model, proto=proto), note)


def _fused(original: onnx.ModelProto, attentions: Sequence[Attention], *, expand: bool) -> onnx.ModelProto:
    """The graph with its attentions replaced.

    Args:
        original: The model, which is left as it is.
        attentions: The attentions that were fused.
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
        add_constant(proto, zero, np.zeros((), np.float32))
        nodes.append(helper.make_node("IsNaN", [fused], [f"{fused}/is_nan"], f"{name}/is_nan"))
        nodes.append(helper.make_node("Where", [f"{fused}/is_nan", zero, fused], [output], f"{name}/guard"))
    return nodes


def _rows(proto: onnx.ModelProto, bias: str, query: str, output: str) -> list[onnx.NodeProto]:
    """Repeat a bias of shape (batch or 1, heads or 1, 1, keys) for each row of the scores."""
    for name, values in ((f"{output}/one", [1]), (f"{output}/two", [1, 1])):
        add_constant(proto, name, np.array(values, np.int64))
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
    set_nodes(proto, reversed(kept))
    drop_unread(proto, constants)
    values = [value for value in proto.graph.value_info if value.name in needed]
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in values]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(copies)
