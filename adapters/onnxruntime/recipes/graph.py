"""An ONNX graph as the recipes' algorithms see it, see :mod:`autotune.algorithms.graph`."""

from __future__ import annotations

import onnx

from autotune.adapters.onnx.graph import attributes
from autotune.algorithms.graph import Convolution


def convolution_of(node: onnx.NodeProto, rank: int) -> Convolution:
    """How a Conv goes over what it reads.

    Args:
        node: The Conv.
        rank: Number of its spatial axes.
    """
    options = attributes(node)
    groups = options.get("group", 1)
    assert isinstance(groups, int)
    explicit = options.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    return Convolution(
        groups=groups,
        strides=_numbers(options.get("strides"), 1, rank),
        dilations=_numbers(options.get("dilations"), 1, rank),
        pads=_numbers(options.get("pads"), 0, 2 * rank) if explicit else None,
    )


def _numbers(value: object, default: int, count: int) -> tuple[int, ...]:
    return tuple(int(each) for each in value) if isinstance(value, list | tuple) and value else (default,) * count
