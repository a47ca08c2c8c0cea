"""Converts an exported program to ONNX, which other runtimes read, under the module's own names."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

import onnx
import onnxscript  # noqa: F401  torch.onnx needs it and imports it late; where it is missing, this says so
import torch

from autotune.adapters.onnx.model import IN_MEMORY_LIMIT
from autotune.adapters.pytorch.names import (
    NamedOp,
    function_name,
    is_builtin,
    module_path,
    op_names,
    program_names,
    weight_of,
)
from autotune.adapters.pytorch.quiet import first_line, quiet
from autotune.errors import ModelError

_SCOPES, _CLASSES, _CALL = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy", "pkg.torch.onnx.fx_node"
"""Metadata of each node: the modules that it is in and their classes, the call last, and the text of the call."""

_MAIN = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "LayerNormalization", "Attention"})
"""The ops that do the work of a call that became several: the product of a Linear, not the addition of its bias."""

_BATCH, _OUTPUT = "batch", "output"


def to_onnx(program: torch.export.ExportedProgram) -> bytes:
    """The ONNX file of a program.

    Inputs are named like the parameters of ``forward``, free axes ``batch`` or after the input that has them first. No
    paths of this machine are in it.

    Raises:
        ModelError: An op has no form in ONNX, or the model is larger than one ONNX message.
    """
    size = sum(each.nbytes for each in program.state_dict.values() if isinstance(each, torch.Tensor))
    if size > IN_MEMORY_LIMIT:
        raise ModelError(
            f"A module must have less than {IN_MEMORY_LIMIT / 2**30:.1f} GiB of weights to be converted here, but has "
            f"{size / 2**30:.1f}. Write it with `torch.onnx.export(module, inputs, path, external_data=True)` and tune "
            "the file"
        )
    try:
        with quiet():
            exported = torch.onnx.export(program, dynamo=True, verbose=False)
    except Exception as error:
        raise ModelError(
            f"A module must consist of ops that have a form in ONNX, which this runtime reads, but torch.onnx says: "
            f"{first_line(error.__cause__ or error)}. Replace the op, or tune the module with `framework: pytorch`"
        ) from error
    assert exported is not None
    proto: onnx.ModelProto = exported.model_proto
    _name_nodes(proto.graph, program)
    _name_axes(proto.graph)
    _name_output(proto.graph)
    _strip(proto)
    return bytes(proto.SerializeToString(deterministic=True))


def _name_nodes(graph: onnx.GraphProto, program: torch.export.ExportedProgram) -> None:
    parameters, calls = program.graph_signature.inputs_to_parameters, program_names(program)
    origins = [_origin(node, parameters, calls) for node in graph.node]
    for node, name in zip(graph.node, op_names(origins), strict=True):
        node.name = name


def _origin(node: onnx.NodeProto, parameters: Mapping[str, str], calls: Mapping[str, str]) -> NamedOp:
    told = {entry.key: entry.value for entry in node.metadata_props}
    scopes, classes = (ast.literal_eval(told.get(key, "[]")) for key in (_SCOPES, _CLASSES))
    if not scopes or len(scopes) != len(classes):  # the exporter's own, of which it keeps nothing
        return NamedOp(path="", function=node.op_type.lower(), call=node.output[0], builtin=False)
    packet = str(classes[-1]).split(".")
    function = function_name(packet[1] if len(packet) > 2 else packet[-1])
    main = node.op_type in _MAIN
    read = re.findall(r"%(\w+)", told.get(_CALL, ""))[1:]  # the first one is the call itself
    weight = weight_of(function, read, parameters)
    if main and function == "batch_norm":  # it went into the weights of what it followed, and left its origin there
        weight = next((name for name in node.input[1:2] if name in parameters.values()), None)
        weight = weight or next((calls[name] for name in read[:1] if name in calls), None)  # a weight that is computed
    return NamedOp(
        path=module_path(scopes[-2]) if len(scopes) > 1 else "",
        function=function,
        call=scopes[-1],
        builtin=len(classes) > 1 and is_builtin(classes[-2]),
        weight=weight,
        kind=node.op_type.lower(),
        main=main,
    )


def _name_axes(graph: onnx.GraphProto) -> None:
    """Name free axes by what they count, in place of the exporter's numbered symbols."""
    names: dict[str, str] = {}
    for value in graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param.isidentifier() and dim.dim_param not in names:
                name = _BATCH if axis == 0 and _BATCH not in names.values() else f"{value.name}_{axis}"
                names[dim.dim_param] = name
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), dim.dim_param)


def _name_output(graph: onnx.GraphProto) -> None:
    """Call the output ``output``, in place of the exporter's name of the last call."""
    (value,) = graph.output
    name, taken = value.name, {each for node in graph.node for each in (*node.input, *node.output)}
    if _OUTPUT in taken or name in {each.name for each in (*graph.input, *graph.initializer)}:
        return
    value.name = _OUTPUT
    for node in graph.node:
        for names in (node.input, node.output):
            for place, each in enumerate(names):
                if each == name:
                    names[place] = _OUTPUT


def _strip(proto: onnx.ModelProto) -> None:
    """Leave out what tells of the exporting machine: stack traces, paths and versions of the exporter."""
    del proto.metadata_props[:]
    proto.producer_version = ""
    graph = proto.graph
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
