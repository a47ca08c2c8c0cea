"""An ONNX model as the adapter holds it."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from onnx import external_data_helper, helper, numpy_helper

from autotune.adapter import TensorSpec
from autotune.adapters.onnx.graph import is_external, tensors
from autotune.adapters.onnx.options import GraphOptimization
from autotune.adapters.onnx.unfold import Origin, unfolded
from autotune.batch import BatchAxes
from autotune.owned_folder import OwnedFolder

IN_MEMORY_LIMIT = 2**31 - 2**27
"""Bytes of weights that a model keeps in its own message. protobuf ends at 2 GiB; the rest is for graph and growth."""

SMALL_TENSOR_BYTES = 1024
"""Tensors up to here stay in the message always: shapes, bounds, scales."""


class TemporaryFolder:
    """A folder that is deleted with this object, or when the process ends; where that is killed, by the next one.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self) -> None:
        folder = OwnedFolder()
        self.path = Path(folder.name)
        weakref.finalize(self, folder.cleanup)


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxModel:
    """A model whose message always stays under protobuf's 2 GiB: beyond, its weights lie in files.

    Attributes:
        proto: Graph, and the weights that are not in files. Nobody changes it.
        external_dir: Folder of the files that external tensors name; None where there are none.
        notes: Notes for the user, a line each.
        folder: Keeps a temporary ``external_dir`` alive for as long as the model.
        optimization: How far ONNX Runtime is to optimize the graph when it loads it.
        given: The user's model as it was before preparation; None where this is the user's own, or a candidate.
        origins: By name of a constant that preparation computed, what it was computed from.
        batch_axes: Which axes count samples; None: what the shapes of inputs and outputs declare.
    """

    proto: onnx.ModelProto
    external_dir: Path | None = None
    notes: tuple[str, ...] = ()
    folder: TemporaryFolder | None = None
    optimization: GraphOptimization = GraphOptimization.ALL
    given: OnnxModel | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict)
    batch_axes: BatchAxes | None = None

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that depend on the graph and its weights, and not on where the weights lie."""
        digest = hashlib.sha256()
        graph = self.proto.graph
        opsets = sorted((o.domain, o.version) for o in self.proto.opset_import)
        digest.update(repr((opsets, [f.name for f in self.proto.functions])).encode())
        if self.optimization is not GraphOptimization.ALL:
            digest.update(str(self.optimization).encode())
        for part in (*self.proto.functions, *graph.input, *graph.output, *graph.node):
            digest.update(part.SerializeToString(deterministic=True))
        # ONNX Runtime writes initializers in the order of a hash table, so that their order says nothing.
        for tensor in sorted(graph.initializer, key=lambda tensor: str(tensor.name)):
            digest.update(f"{tensor.name} {tensor.data_type} {list(tensor.dims)}".encode())
            for chunk in self._values(tensor):
                digest.update(chunk)
        return digest.hexdigest()[:16]

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs in graph order, constants excluded."""
        constants = {tensor.name for tensor in self.proto.graph.initializer}
        return tuple(tensor_spec(value) for value in self.proto.graph.input if value.name not in constants)

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs in graph order."""
        return tuple(tensor_spec(value) for value in self.proto.graph.output)

    @cached_property
    def size_bytes(self) -> int:
        """Size of the file that the model is saved as, external data included."""
        external = sum(tensor_bytes(tensor) for tensor in tensors(self.stored.graph) if is_external(tensor))
        return int(self.stored.ByteSize()) + external

    @cached_property
    def stored(self) -> onnx.ModelProto:
        """The message as it is written to a file: constants that are larger than what they come from are computed."""
        return unfolded(self.proto, self.origins) if self.origins else self.proto

    def tensor(self, tensor: onnx.TensorProto) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        """The values of one of the model's constants."""
        base = "" if self.external_dir is None else str(self.external_dir)
        values: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = numpy_helper.to_array(tensor, base_dir=base)
        return values

    def _values(self, tensor: onnx.TensorProto) -> Iterator[bytes]:
        if not is_external(tensor):
            yield (
                numpy_helper.to_array(tensor).tobytes()
                if tensor.data_type != onnx.TensorProto.STRING
                else b"".join(tensor.string_data)
            )
            return
        assert self.external_dir is not None
        path, offset, length = external_place(tensor, self.external_dir)
        with path.open("rb") as file:
            file.seek(offset)
            while length > 0:
                chunk = file.read(min(length, 2**24))
                length -= len(chunk) or length
                yield chunk


def fits_in_message(size_bytes: int) -> bool:
    """Whether weights of this size can stay in a model's own message."""
    return size_bytes < IN_MEMORY_LIMIT


def external_place(tensor: onnx.TensorProto, folder: Path) -> tuple[Path, int, int]:
    """File, offset and length in bytes of an external tensor."""
    info = external_data_helper.ExternalDataInfo(tensor)
    return folder / info.location, info.offset or 0, info.length or tensor_bytes(tensor)


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's values, wherever they lie."""
    if not is_external(tensor):
        return int(tensor.ByteSize())
    elements = int(np.prod(tensor.dims, dtype=np.int64))
    if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return (elements + 1) // 2
    return elements * int(np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize)


def spill(proto: onnx.ModelProto, external_dir: Path | None) -> tuple[Path | None, TemporaryFolder | None]:
    """Bring a message that would exceed protobuf's limit under it: move its weights to a file, in place.

    Returns:
        The folder of the external data from now on, and the handle that deletes it where it is a temporary one.
    """
    inside = sum(tensor_bytes(tensor) for tensor in proto.graph.initializer if not is_external(tensor))
    if fits_in_message(inside):
        return external_dir, None
    folder = TemporaryFolder()
    write_weights(proto, external_dir, folder.path / "weights.data")
    return folder.path, folder


def write_weights(proto: onnx.ModelProto, external_dir: Path | None, path: Path) -> None:
    """Move all weights to one file, those of other files included; only one of them is in memory at a time.

    Raises:
        OSError: The file cannot be written.
    """
    with path.open("wb") as file:
        for tensor in proto.graph.initializer:
            if tensor_bytes(tensor) < SMALL_TENSOR_BYTES or tensor.data_type == onnx.TensorProto.STRING:
                continue
            values = numpy_helper.to_array(tensor, base_dir="" if external_dir is None else str(external_dir))
            raw = numpy_helper.from_array(values).raw_data
            file.seek(-file.tell() % 4096, 1)  # pages of a memory map
            offset = file.tell()
            file.write(raw)
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(field)
            tensor.ClearField("external_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", path.name), ("offset", offset), ("length", len(raw))):
                tensor.external_data.add(key=key, value=str(value))


def tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    """Name, shape and dtype of an input or output; a sequence or a map is one object, and an optional tensor a tensor.

    Paddle's exporter writes -1 for a length that is free.
    """
    kind = value.type.optional_type.elem_type if value.type.HasField("optional_type") else value.type
    if not kind.HasField("tensor_type"):
        return TensorSpec(name=value.name, dtype=np.dtype(object), shape=())
    tensor = kind.tensor_type
    return TensorSpec(
        name=value.name,
        dtype=np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)),
        shape=tuple(
            int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value >= 0 else (str(dim.dim_param) or None)
            for dim in tensor.shape.dim
        ),
    )
