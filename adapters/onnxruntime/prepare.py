"""Make a model ready to be quantized: names, types, constants folded, batch normalization folded."""

from __future__ import annotations

import onnx
import onnxruntime
from onnx import version_converter

from autotune.adapter import Execution
from autotune.adapters.onnxruntime.forms import write_in_known_forms
from autotune.adapters.onnxruntime.fusion import fuse
from autotune.adapters.onnxruntime.graph import Graph
from autotune.adapters.onnxruntime.model import OnnxModel, spill
from autotune.adapters.onnxruntime.session import open_session, optimized_graph, session_options
from autotune.errors import ApplyError, ModelError

PER_CHANNEL_OPSET = 13
"""QuantizeLinear and DequantizeLinear have an axis from here on."""

_MINIMUM_IR = 4
"""Before, every constant had to be listed as an input too, which lets a caller replace it."""

_GEMM_SHAPES = ("gemm_input_shape", "gemm_output_shape")


def prepare(model: OnnxModel) -> OnnxModel:
    """The same function as a graph that can be quantized.

    ONNX Runtime itself folds: its basic optimisations keep to the standard operators and do not depend on the CPU, and
    it would do the same to the model before running it.

    Raises:
        ModelError: ONNX Runtime cannot run the model.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    notes = list(model.notes)
    # What an exporter wrote down of the tensors inside may contradict the graph; PyTorch 2 writes such. It is all
    # inferred anew below.
    del proto.graph.value_info[:]
    _close_constants(proto)
    _name_nodes(proto)
    proto = _upgrade_opset(proto, notes)
    proto = _fold(proto, model, notes)
    _name_nodes(proto)
    write_in_known_forms(proto)
    _infer_types(proto, model, notes)
    external_dir, folder = spill(proto, model.external_dir)
    return fuse(OnnxModel(proto=proto, external_dir=external_dir, notes=tuple(notes), folder=folder or model.folder))


def _close_constants(proto: onnx.ModelProto) -> None:
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    if len(inputs) < len(proto.graph.input):
        del proto.graph.input[:]
        proto.graph.input.extend(inputs)
    proto.ir_version = max(proto.ir_version, _MINIMUM_IR)


def _name_nodes(proto: onnx.ModelProto) -> None:
    """Give every node a name of its own: configs name ops by it."""
    taken: set[str] = set()
    for node in proto.graph.node:
        name = node.name or f"{node.op_type}_{node.output[0] if node.output else ''}"
        unique, count = name, 1
        while unique in taken:
            count += 1
            unique = f"{name}_{count}"
        node.name = unique
        taken.add(unique)


def _upgrade_opset(proto: onnx.ModelProto, notes: list[str]) -> onnx.ModelProto:
    opset = Graph(proto).opset
    if not 0 < opset < PER_CHANNEL_OPSET:
        return proto
    try:
        converted = version_converter.convert_version(proto, PER_CHANNEL_OPSET)
    except Exception as error:  # the converter raises RuntimeError, ValueError and its own classes
        reason = str(error).strip().splitlines()[0]
        notes.append(
            f"The model has opset {opset} and could not be converted to {PER_CHANNEL_OPSET} ({reason}): per-channel "
            "weights are not offered. Export it with a newer opset"
        )
        return proto
    notes.append(f"The model was converted from opset {opset} to {PER_CHANNEL_OPSET}, which per-channel weights need")
    return converted


def _fold(proto: onnx.ModelProto, model: OnnxModel, notes: list[str]) -> onnx.ModelProto:
    if model.external_dir is not None:
        # Folded weights would have to be written to the disk a second time.
        notes.append(
            "The model's weights exceed 2 GB: constants and batch normalization are not folded before quantization. "
            "Fold them at export"
        )
        return proto
    if _holds_float16(proto):
        # ONNX Runtime has no float16 kernels on most CPUs and writes casts to float32 into the graph that it saves.
        notes.append(
            "The model holds float16 tensors: constants and batch normalization are not folded before quantization. "
            "Export it in float32"
        )
        return proto
    try:
        folded = optimized_graph(proto, level=onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
    except ApplyError as error:
        raise ModelError(
            f"{error}. It must run in ONNX Runtime {onnxruntime.__version__} before it can be tuned"
        ) from error
    _rename_shapes(folded)
    return folded


def _rename_shapes(proto: onnx.ModelProto) -> None:
    """Rename the shapes that ONNX Runtime brought in where it made a Gemm of a product with fixed shapes.

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


def _holds_float16(proto: onnx.ModelProto) -> bool:
    inputs = (value.type.tensor_type.elem_type for value in proto.graph.input)
    constants = (tensor.data_type for tensor in proto.graph.initializer)
    return any(elem_type == onnx.TensorProto.FLOAT16 for elem_type in (*inputs, *constants))


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
        if value.name in outputs and shape and not outputs[value.name].type.tensor_type.HasField("shape"):
            elem_type = outputs[value.name].type.tensor_type.elem_type
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
