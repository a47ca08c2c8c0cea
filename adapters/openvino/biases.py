"""The constants that recipes change: names for the weight and the bias of an op, and the Add that holds the bias."""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as opset

from autotune.adapter import Array
from autotune.adapters.openvino.ops import QuantizableOp, bias_of, constant_value


def weight_name(op: QuantizableOp) -> str:
    """How the algorithms call the op's weight, which they get with output channels along the first axis."""
    return f"{op.name}/weight"


def bias_name(op: QuantizableOp) -> str:
    """How the algorithms call the op's bias, which they get as one number per output channel."""
    return f"{op.name}/bias"


class Bias:
    """The constant that is added to what an op writes.

    Args:
        op: With a weight.
    """

    def __init__(self, op: QuantizableOp) -> None:
        self._op = op
        self.add = bias_of(op)
        self.place = -1
        self.values: Array | None = None
        if self.add is not None and op.has_channels:
            own = op.node.get_name()
            self.place = 1 if self.add.input_value(0).get_node().get_name() == own else 0
            stored = constant_value(self.add.input_value(self.place).get_node())
            # One number for all channels, or one for each place of a picture, is no bias of channels.
            if stored is not None and stored.size == len(op.rows) == max(stored.shape, default=1):
                self.values = np.asarray(stored, np.float32).reshape(-1)

    def replace(self, values: Array) -> None:
        """Let the Add read other values."""
        assert self.add is not None
        rank = self._op.node.get_output_partial_shape(0).rank.get_length()
        shape = (1, -1, *[1] * (rank - 2)) if self._op.convolves else (-1,)
        constant = opset.constant(np.asarray(values, np.float32).reshape(shape))
        self.add.input(self.place).replace_source_output(constant.output(0))


def give_bias(op: QuantizableOp) -> ov.Output | None:
    """Add zeros to what an op writes where nothing is added yet, so that there is something to correct.

    Returns:
        The sum; None where there is a bias already, or the op has no channels.
    """
    if not op.has_channels or bias_of(op) is not None:
        return None
    readers = list(op.node.output(0).get_target_inputs())
    names = op.node.output(0).get_names()
    rank = op.node.get_output_partial_shape(0).rank.get_length()
    shape = (1, -1, *[1] * (rank - 2)) if op.convolves else (-1,)
    add = opset.add(op.node, opset.constant(np.zeros(len(op.rows), np.float32).reshape(shape)))
    add.set_friendly_name(f"{op.name}/biased")
    for reader in readers:
        reader.replace_source_output(add.output(0))
    op.node.output(0).set_names(set())
    add.output(0).set_names(names)  # it may be an output of the model
    return add.output(0)
