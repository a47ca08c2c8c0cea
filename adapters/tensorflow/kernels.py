"""Which kernels LiteRT chose for a model: what XNNPACK took over, and in which type each op computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotune.adapter import TensorSpec
from autotune.adapters.tensorflow.session import Shapes, interpreter_for

_DELEGATE = "DELEGATE"
CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """The kernel of one op, as LiteRT chose it when it made a model ready to run.

    Attributes:
        kind: TensorFlow Lite's name for this kind of op.
        outputs: Places of the tensors that it writes.
        xnnpack: Whether XNNPACK computes it; LiteRT's own kernels are up to 18 times slower.
        integers: Whether it writes integers.
        integer_weight: Whether its second input is stored in integers.
    """

    kind: str
    outputs: tuple[int, ...]
    xnnpack: bool
    integers: bool
    integer_weight: bool


def kernels(content: bytes, specs: Sequence[TensorSpec], shapes: Shapes) -> tuple[Kernel, ...]:
    """The ops of a model that was made ready for inputs of these shapes, in the order of the file.

    Raises:
        ApplyError: LiteRT refuses the model.
    """
    interpreter = interpreter_for(content, specs, shapes, 1)
    # The list has the file's own ops, and behind them one op for each part that a delegate took over.
    details: Sequence[Mapping[str, Any]] = interpreter._get_ops_details()
    types = {each["index"]: np.dtype(each["dtype"]) for each in interpreter.get_tensor_details()}
    own = [each for each in details if each["op_name"] != _DELEGATE]
    taken = _taken(own, [each for each in details if each["op_name"] == _DELEGATE])
    return tuple(
        Kernel(
            kind=str(each["op_name"]),
            outputs=_places(each["outputs"]),
            xnnpack=place in taken,
            integers=all(types.get(out, np.dtype(np.float32)).kind in "iu" for out in _places(each["outputs"])),
            integer_weight=len(each["inputs"]) > 1 and types.get(int(each["inputs"][1])) == np.int8,
        )
        for place, each in enumerate(own)
    )


def _taken(own: Sequence[Mapping[str, Any]], delegates: Sequence[Mapping[str, Any]]) -> set[int]:
    """Places of the ops that lie between what a delegate reads and what it writes."""
    writers = {out: place for place, each in enumerate(own) for out in _places(each["outputs"])}
    found: set[int] = set()
    for delegate in delegates:
        read = set(_places(delegate["inputs"]))
        pending = list(_places(delegate["outputs"]))
        while pending:
            tensor = pending.pop()
            writer = writers.get(tensor)
            if writer is not None and writer not in found:
                found.add(writer)
                pending += [each for each in _places(own[writer]["inputs"]) if each not in read]
    return found


def _places(indices: Any) -> tuple[int, ...]:
    return tuple(int(each) for each in indices if each >= 0)
