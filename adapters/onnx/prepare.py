"""Make a model ready to be quantized: names, types, constants folded, batch normalization folded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx
import onnxruntime
from onnx import version_converter

from autotune.adapter import Array, Execution, Feeds
from autotune.adapters.onnx.branches import take_branches
from autotune.adapters.onnx.compare import TOLERANCE, Reference, Unknown
from autotune.adapters.onnx.decided import choice_note, deciding_inputs, fix_inputs, fixed_note
from autotune.adapters.onnx.forms import write_in_known_forms
from autotune.adapters.onnx.fusion import fuse
from autotune.adapters.onnx.graph import Graph, outer_reads
from autotune.adapters.onnx.model import OnnxModel, spill
from autotune.adapters.onnx.names import make_room, name_nodes, restore_names
from autotune.adapters.onnx.quantized import quantized_note
from autotune.adapters.onnx.session import open_session, optimized_graph, session_options
from autotune.adapters.onnx.unfold import find_origins, keep_branches
from autotune.errors import ApplyError, ModelError
from autotune.notes import listed

PER_CHANNEL_OPSET = 13
"""QuantizeLinear and DequantizeLinear have an axis from here on."""

_QDQ_OPSET = 10
"""QuantizeLinear and DequantizeLinear exist from here on."""

_MINIMUM_IR = 4
"""First IR version in which a constant need not be an input too, which lets a caller replace it."""

_RESIZE_CHANGED = 11
"""Resize has a mode for its coordinates from here on; before, it computed what is called ``asymmetric`` since."""

_GEMM_SHAPES = ("gemm_input_shape", "gemm_output_shape")


def prepare(
    given: OnnxModel,
    feeds: Sequence[Feeds] = (),
    fixed: Mapping[str, Array] | None = None,
    shapes: Sequence[Feeds] = (),
) -> OnnxModel:
    """The same function as a graph that can be quantized.

    ONNX Runtime itself folds: its basic optimisations keep to the standard operators and do not depend on the CPU, and
    it would do the same to the model before running it. The result is compared with the user's model; where they
    differ, less is done.

    Args:
        given: The user's model.
        feeds: Data to compare on; where there are none, they are made up.
        fixed: Values of inputs that the model is prepared for alone.
        shapes: One batch of each shape, where it is prepared for these alone; none where it is prepared for any.

    Raises:
        ModelError: ONNX Runtime cannot run the model.
    """
    _require_tensors(given)
    given, reference = _runnable(given, feeds)
    prepared = _prepared(_cleaned(given, fixed or {}, shapes), reference)
    return dataclasses.replace(fuse(prepared, reference), given=given)


def agrees_on(model: OnnxModel, feeds: Sequence[Feeds]) -> bool:
    """Whether a prepared model computes on the user's data what the user's model does.

    Raises:
        ModelError: The user's model does not run on the data.
    """
    assert model.given is not None
    reference = Reference(model.given, feeds)
    try:
        return reference.agrees(reference.error(model))
    except Unknown:
        return True  # what is wrong with the data is said by who reads them
    except ApplyError:
        return False


def _require_tensors(given: OnnxModel) -> None:
    for value in given.proto.graph.input:
        kind = value.type.WhichOneof("value")
        if kind == "optional_type" and value.type.optional_type.elem_type.HasField("tensor_type"):
            continue
        if kind != "tensor_type":
            name = "of unknown type" if kind is None else f"a {kind.removesuffix('_type')}"
            raise ModelError(
                f"Every input of a model must be a tensor, but {value.name!r} is {name}. Export the model without it, "
                "or tune the part that reads tensors"
            )


def _runnable(given: OnnxModel, feeds: Sequence[Feeds]) -> tuple[OnnxModel, Reference]:
    """The user's model, and what it gives.

    Where ONNX Runtime refuses it, two things are mended: equal names of nodes, and shapes that an exporter wrote down
    of tensors inside and that contradict the graph.

    Raises:
        ModelError: ONNX Runtime refuses it all the same.
    """
    reference = Reference(given, feeds)
    try:
        reference.require_runnable()
        return given, reference
    except ApplyError as error:
        proto = onnx.ModelProto()
        proto.CopyFrom(given.proto)
        del proto.graph.value_info[:]
        name_nodes(proto)
        note = f"ONNX Runtime refuses the file as it is ({error}), and the baseline is the model with that mended"
        mended = _with_note(dataclasses.replace(given, proto=proto), note)
        reference = Reference(mended, feeds)
        try:
            reference.require_runnable()
        except ApplyError:
            raise ModelError(
                f"{error}. It must run in ONNX Runtime {onnxruntime.__version__} before it can be tuned"
            ) from error
        return mended, reference


def _cleaned(given: OnnxModel, fixed: Mapping[str, Array], shapes: Sequence[Feeds]) -> OnnxModel:
    """A copy in which every node has a name, and every constant is one."""
    proto = onnx.ModelProto()
    proto.CopyFrom(given.proto)
    notes = list(given.notes)
    # The shapes that an exporter wrote down for inner tensors may contradict the graph; PyTorch 2 writes such. It is
    # all inferred anew later.
    del proto.graph.value_info[:]
    _close_constants(proto, notes)
    name_nodes(proto)
    if note := quantized_note(proto):
        notes.append(note)
        make_room(proto)
    if fixed:
        notes.append(fixed_note(fixed))
    elif names := deciding_inputs(proto):
        notes.append(choice_note(names))
    fix_inputs(proto, fixed)
    if note := take_branches(proto, shapes, given.external_dir):
        notes.append(note)
    return dataclasses.replace(given, proto=proto, notes=tuple(notes))


def _close_constants(proto: onnx.ModelProto, notes: list[str]) -> None:
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    if len(inputs) < len(proto.graph.input):
        if proto.ir_version >= _MINIMUM_IR:
            names = [str(value.name) for value in proto.graph.input if value.name in constants]
            notes.append(
                f"The constants {listed(names)} are inputs too, which a caller may replace, and which keeps ONNX "
                "Runtime from folding them: in the tuned model they are constants"
            )
        del proto.graph.input[:]
        proto.graph.input.extend(inputs)
    proto.ir_version = max(proto.ir_version, _MINIMUM_IR)


def _prepared(source: OnnxModel, reference: Reference) -> OnnxModel:
    """The model with as much done to it as leaves its function alone."""
    opset = Graph(source.proto).opset
    refused: dict[str, None] = {}
    for fold in (True, False):
        for target in _targets(opset):
            try:
                model = source if target is None else _converted(source, target)
                model = _typed(_folded(model) if fold else model)
                reason = _reason(model, reference)
            except _NotConverted as failure:
                refused[str(failure)] = None
                continue
            except ApplyError as failure:
                reason = str(failure)
            if reason is None:
                return _noted(model, opset, target, list(refused))
            steps = [f"converted to opset {target}"] if target is not None else []
            steps += ["with constants folded"] if fold else []
            refused[f"{' and '.join(steps) or 'as it is'}, {reason}"] = None
    raise ModelError(
        f"A model must compute the same once it is prepared, but {'; '.join(refused)}. Export it anew, with opset "
        f"{PER_CHANNEL_OPSET} or newer"
    )


def _reason(model: OnnxModel, reference: Reference) -> str | None:
    """Why a model may not take the place of the user's; None where it may, or where nothing can be said."""
    try:
        error = reference.error(model)
    except Unknown:
        return None
    if reference.agrees(error):
        return None
    where = reference.first_difference(model)
    at = f" from {where} on" if where else ""
    return f"outputs would change by {error:.1e} relative{at}, and {TOLERANCE:.0e} is the limit"


class _NotConverted(Exception):
    """onnx's converter refuses."""


def _targets(opset: int) -> list[int | None]:
    """The opsets to try, the one that offers most first; None leaves the model's own."""
    if not 0 < opset < PER_CHANNEL_OPSET:
        return [None]
    return [*range(PER_CHANNEL_OPSET, max(opset, _QDQ_OPSET - 1), -1), None]


def _noted(model: OnnxModel, opset: int, target: int | None, refused: Sequence[str]) -> OnnxModel:
    since = f", since {'; '.join(refused)}" if refused else ""
    if not 0 < opset < PER_CHANNEL_OPSET:
        return _with_note(model, f"The model is prepared less than it could be{since}") if since else model
    if target is None:
        did = f"keeps opset {opset}{since}: per-channel weights are not offered. Export it with a newer opset"
    elif target < PER_CHANNEL_OPSET:
        did = f"was converted from opset {opset} to {target} only{since}: per-channel weights are not offered"
    else:
        did = f"was converted from opset {opset} to {target}, which per-channel weights need{since}"
    return _with_note(model, f"The model {did}")


def _converted(source: OnnxModel, target: int) -> OnnxModel:
    """The model with another opset.

    Raises:
        _NotConverted: onnx's converter refuses.
    """
    old = Graph(source.proto).opset
    try:
        proto = version_converter.convert_version(source.proto, target)
    except Exception as error:  # the converter raises RuntimeError, ValueError and its own classes
        reason = str(error).strip().splitlines()[0]
        raise _NotConverted(f"onnx's converter refuses it ({reason})") from error
    if old < _RESIZE_CHANGED <= target:
        for node in proto.graph.node:
            if node.op_type == "Resize" and not any(each.name == _COORDINATES for each in node.attribute):
                node.attribute.append(onnx.helper.make_attribute(_COORDINATES, "asymmetric"))
                node.attribute.append(onnx.helper.make_attribute("nearest_mode", "floor"))
    return dataclasses.replace(source, proto=proto)


_COORDINATES = "coordinate_transformation_mode"


def _folded(source: OnnxModel) -> OnnxModel:
    """Constants and batch normalization folded.

    Raises:
        ApplyError: ONNX Runtime refuses the model.
    """
    if source.external_dir is not None:
        # Folded weights would have to be written to the disk a second time.
        return _with_note(
            source,
            "The model's weights exceed 2 GB: constants and batch normalization are not folded before quantization. "
            "Fold them at export",
        )
    if _computes_in_float16(source.proto):
        # ONNX Runtime has no float16 kernels on most CPUs and writes casts to float32 into the graph that it saves.
        return _with_note(
            source,
            "The model holds float16 tensors: constants and batch normalization are not folded before quantization. "
            "Export it in float32",
        )
    folded = optimized_graph(source.proto, level=onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
    restore_names(source.proto, folded)
    keep_branches(source.proto, folded)
    _rename_shapes(folded)
    name_nodes(folded)
    return dataclasses.replace(source, proto=folded, origins=find_origins(source.proto, folded))


def _with_note(model: OnnxModel, note: str) -> OnnxModel:
    return dataclasses.replace(model, notes=(*model.notes, note))


def _typed(source: OnnxModel) -> OnnxModel:
    """Ops in the forms that integer kernels take, types and shapes of all tensors written down."""
    proto = onnx.ModelProto()
    proto.CopyFrom(source.proto)
    notes = list(source.notes)
    name_nodes(proto)
    write_in_known_forms(proto)
    _infer_types(proto, source, notes)
    external_dir, folder = spill(proto, source.external_dir)
    return dataclasses.replace(
        source, proto=proto, external_dir=external_dir, notes=tuple(notes), folder=folder or source.folder
    )


def _rename_shapes(proto: onnx.ModelProto) -> None:
    """Rename the shapes that ONNX Runtime brought in where it made a Gemm of a MatMul with fixed shapes.

    When it does the same in a session, it takes the same names anew, and refuses the model because they are there.
    """
    taken = {tensor.name for tensor in proto.graph.initializer}
    renamed: dict[str, str] = {}
    for tensor in proto.graph.initializer:
        if tensor.name.startswith(_GEMM_SHAPES):
            name, count = f"folded/{tensor.name}", 1
            while name in taken:
                count += 1
                name = f"folded/{tensor.name}_{count}"
            taken.add(name)
            renamed[tensor.name] = tensor.name = name
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)


def _computes_in_float16(proto: onnx.ModelProto) -> bool:
    """Whether a model computes in float16, and does not merely store weights in it, which a Cast reads."""
    inputs = (value.type.tensor_type.elem_type for value in proto.graph.input)
    if onnx.TensorProto.FLOAT16 in inputs:
        return True
    halves = {tensor.name for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    halves |= {
        name
        for node in proto.graph.node
        if node.op_type == "Constant" and any(each.t.data_type == onnx.TensorProto.FLOAT16 for each in node.attribute)
        for name in node.output
    }
    return any(
        node.op_type != "Cast" and not halves.isdisjoint((*node.input, *outer_reads(node))) for node in proto.graph.node
    )


def _infer_types(proto: onnx.ModelProto, model: OnnxModel, notes: list[str]) -> None:
    """Write down type and shape of every tensor as ONNX Runtime sees them, contrib operators included."""
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    known = {output.name for output in proto.graph.output}
    names = [name for node in proto.graph.node for name in node.output if name and name not in known]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = session_options(Execution())
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = open_session(probe, model.external_dir, options)
    except ApplyError as error:
        notes.append(f"The types of tensors inside of the model are unknown, so that fewer ops are offered: {error}")
        return
    del proto.graph.value_info[:]
    wanted = set(names)
    outputs = {output.name: output for output in proto.graph.output}
    for value in session.get_outputs():
        # ONNX Runtime says the same of a scalar and of a tensor of unknown rank. Taken for a scalar's, an unknown rank
        # makes a model that ONNX Runtime refuses.
        shape = value.shape or None
        declared = outputs[value.name].type.tensor_type if value.name in outputs else None
        if declared is not None and declared.elem_type and shape and not declared.HasField("shape"):
            elem_type = declared.elem_type
            shaped = onnx.helper.make_tensor_value_info(value.name, elem_type, shape)
            outputs[value.name].CopyFrom(shaped)
        elem_type = _ELEM_TYPES.get(value.type)
        if value.name in wanted and elem_type is not None:
            proto.graph.value_info.append(onnx.helper.make_tensor_value_info(value.name, elem_type, shape))


_ELEM_TYPES = {
    f"tensor({name})": elem_type
    for name, elem_type in {
        "float": onnx.TensorProto.FLOAT,
        "float16": onnx.TensorProto.FLOAT16,
        "bfloat16": onnx.TensorProto.BFLOAT16,
        "double": onnx.TensorProto.DOUBLE,
        "int8": onnx.TensorProto.INT8,
        "uint8": onnx.TensorProto.UINT8,
        "int16": onnx.TensorProto.INT16,
        "uint16": onnx.TensorProto.UINT16,
        "int32": onnx.TensorProto.INT32,
        "uint32": onnx.TensorProto.UINT32,
        "int64": onnx.TensorProto.INT64,
        "uint64": onnx.TensorProto.UINT64,
        "bool": onnx.TensorProto.BOOL,
        "string": onnx.TensorProto.STRING,
    }.items()
}
