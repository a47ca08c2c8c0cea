"""The graph of a ``.tflite`` file as Python objects: operators, tensors, constants, and the bytes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from autotune.adapter import Array

FLOAT32 = schema.TensorType.FLOAT32
INT8 = schema.TensorType.INT8
INT32 = schema.TensorType.INT32

DTYPES: Mapping[int, np.dtype[Any]] = {
    schema.TensorType.FLOAT32: np.dtype(np.float32),
    schema.TensorType.FLOAT16: np.dtype(np.float16),
    schema.TensorType.FLOAT64: np.dtype(np.float64),
    schema.TensorType.INT8: np.dtype(np.int8),
    schema.TensorType.UINT8: np.dtype(np.uint8),
    schema.TensorType.INT16: np.dtype(np.int16),
    schema.TensorType.INT32: np.dtype(np.int32),
    schema.TensorType.INT64: np.dtype(np.int64),
    schema.TensorType.BOOL: np.dtype(np.bool_),
}

_KINDS = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}


class Graph:
    """The main graph of a model; further ones belong to ops such as WHILE and are carried along.

    Args:
        content: Bytes of a ``.tflite`` file that LiteRT has accepted.
    """

    def __init__(self, content: bytes) -> None:
        self._take(flatbuffer_utils.read_model_from_bytearray(bytearray(content)))

    @classmethod
    def empty(cls) -> Self:
        """A graph without tensors and operators."""
        model, main = schema.ModelT(), schema.SubGraphT()
        model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [main], [schema.BufferT()], []
        main.name, main.tensors, main.operators, main.inputs, main.outputs = b"main", [], [], [], []
        made = cls.__new__(cls)
        made._take(model)
        return made

    def _take(self, model: Any) -> None:
        self.model: Any = model
        self.main: Any = self.model.subgraphs[0]
        self.inputs: list[int] = list(self.main.inputs)
        self.outputs: list[int] = list(self.main.outputs)

    def set_ends(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Say which tensors the caller gives and gets."""
        self.main.inputs, self.main.outputs = list(inputs), list(outputs)
        self.inputs, self.outputs = list(inputs), list(outputs)

    @property
    def operators(self) -> Sequence[Any]:
        """The operators in the order in which they run."""
        return self.main.operators or []

    @property
    def tensors(self) -> Sequence[Any]:
        """The tensors; operators refer to them by place."""
        return self.main.tensors or []

    def kind(self, operator: Any) -> str:
        """TensorFlow Lite's name for a kind of op, as in ``CONV_2D``."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        # Files from before there were more than 127 kinds have the code in the older field alone.
        return str(_KINDS[max(code.builtinCode, code.deprecatedBuiltinCode)])

    def constant(self, place: int) -> Array | None:
        """The values of a constant tensor; None where an op or the caller writes it, or its type is not NumPy's."""
        tensor = self.tensors[place]
        data = self.model.buffers[tensor.buffer].data
        if place in self.inputs or data is None or len(data) == 0 or tensor.type not in DTYPES:
            return None
        values = np.frombuffer(bytes(data), DTYPES[tensor.type])
        return values.reshape(shape_of(tensor)) if values.size == np.prod(shape_of(tensor), dtype=int) else None

    def set_constant(self, place: int, values: Array) -> None:
        """Give a tensor other values, in a buffer of its own: several tensors may share one."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        tensor = self.tensors[place]
        tensor.buffer = len(self.model.buffers) - 1
        tensor.shape = list(values.shape)

    def add_tensor(self, shape: Sequence[int], type_: int, name: str = "") -> int:
        """A new tensor without values; its place."""
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer = list(shape), type_, 0
        tensor.name = (name or f"tensor_{len(self.tensors)}").encode()
        self.main.tensors.append(tensor)
        return len(self.tensors) - 1

    def add_constant(self, values: Array, name: str = "") -> int:
        """A new tensor of float32 or int32 with these values; its place."""
        place = self.add_tensor(values.shape, INT32 if values.dtype == np.int32 else FLOAT32, name)
        self.set_constant(place, values)
        return place

    def add_operator(
        self, kind: str, inputs: Sequence[int], outputs: Sequence[int], options: tuple[str, Any] | None = None
    ) -> Any:
        """A new operator behind those that are there.

        Args:
            kind: TensorFlow Lite's name for the kind of op.
            inputs: Places of the tensors that it reads.
            outputs: Places of the tensors that it writes.
            options: Name of their type in the schema, and the options; None where the kind has none.
        """
        operator = schema.OperatorT()
        operator.opcodeIndex = self.operator_code(kind)
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if options is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options[0])
            operator.builtinOptions = options[1]
        self.main.operators.append(operator)
        return operator

    def operator_code(self, kind: str) -> int:
        """The place of an operator code of this kind, which is added where there is none."""
        builtin = getattr(schema.BuiltinOperator, kind)
        for place, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
                return place
        made = schema.OperatorCodeT()
        # Kinds beyond 127 do not fit the older field, which then says so.
        made.builtinCode, made.deprecatedBuiltinCode, made.version = builtin, min(builtin, 127), 1
        self.model.operatorCodes.append(made)
        return len(self.model.operatorCodes) - 1

    def set_metadata(self, entries: Mapping[str, str]) -> None:
        """Write texts into the file's metadata, by name."""
        kept = [each for each in self.model.metadata or [] if text(each.name) not in entries]
        for name, value in entries.items():
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(value.encode() or b"\0", np.uint8)
            self.model.buffers.append(buffer)
            entry = schema.MetadataT()
            entry.name, entry.buffer = name.encode(), len(self.model.buffers) - 1
            kept.append(entry)
        self.model.metadata = kept

    def metadata(self) -> dict[str, bytes]:
        """The texts that the file keeps about itself, by name."""
        found = {}
        for each in self.model.metadata or []:
            data = self.model.buffers[each.buffer].data
            found[text(each.name)] = b"" if data is None else bytes(data)
        return found

    def to_bytes(self) -> bytes:
        """The bytes of the file."""
        self._drop_unused_buffers()
        for buffer in self.model.buffers:
            if isinstance(buffer.data, (bytes, bytearray, list)):
                # The writer copies arrays as a whole, and anything else byte by byte: 2 us for each of a weight's.
                buffer.data = np.frombuffer(bytes(buffer.data), np.uint8)
        return bytes(flatbuffer_utils.convert_object_to_bytearray(self.model))

    def _drop_unused_buffers(self) -> None:
        """Leave out the buffers that were replaced; buffer 0 is the empty one by convention."""
        holders = [
            *(tensor for graph in self.model.subgraphs for tensor in graph.tensors or []),
            *(self.model.metadata or []),
        ]
        used = sorted({0, *(holder.buffer for holder in holders), *(self.model.metadataBuffer or [])})
        places = {old: new for new, old in enumerate(used)}
        self.model.buffers = [self.model.buffers[old] for old in used]
        for holder in holders:
            holder.buffer = places[holder.buffer]
        if self.model.metadataBuffer is not None:
            self.model.metadataBuffer = [places[old] for old in self.model.metadataBuffer]


def shape_of(tensor: Any) -> tuple[int, ...]:
    """The shape that a tensor has in a file: free axes count 1 there."""
    return () if tensor.shape is None else tuple(int(size) for size in tensor.shape)


def free_shape_of(tensor: Any) -> tuple[int | None, ...]:
    """The shape of a tensor with None for free axes."""
    signature = tensor.shapeSignature
    shape = shape_of(tensor)
    return shape if signature is None or len(signature) == 0 else tuple(None if n < 0 else int(n) for n in signature)


def text(name: Any) -> str:
    """A name of the file as text."""
    return "" if name is None else name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def is_quantized(tensor: Any) -> bool:
    """Whether a tensor holds integers that stand for real values."""
    quantization = tensor.quantization
    return quantization is not None and quantization.scale is not None and len(quantization.scale) > 0
