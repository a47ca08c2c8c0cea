"""Files of parameters, ``.pdiparams``: the constants of a program one after the other, in the order of their names."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence

import numpy as np

from autotune.adapter import Array
from autotune.adapters.paddle.framework import framework_pb2 as pb
from autotune.adapters.paddle.program import DTYPES, TYPES
from autotune.notes import counted


def read_parameters(content: bytes, names: Sequence[str]) -> dict[str, Array]:
    """By name: the arrays of a file.

    Args:
        content: The file.
        names: Names of its arrays in order.

    Raises:
        ValueError: The file ends too early, or goes on after the last array.
    """
    file = io.BytesIO(content)
    found = {}
    for name in names:
        try:
            (_, levels) = struct.unpack("<IQ", _bytes(file, 12))
            for _ in range(levels):
                _bytes(file, struct.unpack("<Q", _bytes(file, 8))[0])
            _, size = struct.unpack("<Ii", _bytes(file, 8))
            desc = pb.VarType.TensorDesc.FromString(_bytes(file, size))
            dtype = DTYPES[desc.data_type]
            shape = tuple(desc.dims)
            data = _bytes(file, dtype.itemsize * int(np.prod(shape, dtype=np.int64)))
        except ValueError:
            raise
        except Exception as error:  # protobuf's own class of error depends on its version
            raise ValueError(f"the array {name!r} is damaged ({type(error).__name__})") from error
        found[name] = np.frombuffer(data, dtype).reshape(shape)
    if file.read(1):
        raise ValueError(f"it holds more than the {counted(len(names), 'array')} of the program")
    return found


def write_parameters(values: Mapping[str, Array]) -> bytes:
    """The file of these arrays."""
    file = io.BytesIO()
    for name in sorted(values):
        array = np.asarray(values[name])
        desc = pb.VarType.TensorDesc(data_type=TYPES[array.dtype], dims=array.shape).SerializeToString()
        file.write(struct.pack("<IQIi", 0, 0, 0, len(desc)))
        file.write(desc)
        file.write(np.ascontiguousarray(array).tobytes())
    return file.getvalue()


def _bytes(file: io.BytesIO, count: int) -> bytes:
    content = file.read(count) if count >= 0 else b""
    if len(content) != count:
        raise ValueError("it ends too early")
    return content
