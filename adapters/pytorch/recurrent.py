"""LSTM and GRU as a graph has them: their arguments, and whether they can be int8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from autotune.adapters.pytorch.graph import ATEN, constant_of, is_tensor

RECURRENT = {ATEN.lstm.input: "LSTM", ATEN.gru.input: "GRU"}
"""Ops that go over a sequence step by step, and what they are called."""

MOST_STEPS = 128
"""More steps than these, counted over all layers and directions, take the compiler minutes; 50 take it half of one."""


@dataclass(frozen=True, kw_only=True)
class Recurrence:
    """The arguments of a recurrent op.

    Attributes:
        kind: ``LSTM`` or ``GRU``.
        source: The sequence that it reads.
        states: Initial hidden state, and that of the cells for an LSTM.
        parameters: For each layer and direction, two matrices, and two vectors of biases where it has them.
        biased: Whether it has biases.
        layers: Number of layers.
        both: Whether each layer goes in both directions.
        batch_first: Whether the first axis of what it reads counts samples, and not steps.
    """

    kind: str
    source: fx.Node
    states: tuple[fx.Node, ...]
    parameters: tuple[fx.Node, ...]
    biased: bool
    layers: int
    both: bool
    batch_first: bool

    @property
    def steps(self) -> int | None:
        """Length of the sequence; None where it is free."""
        length = self.source.meta["val"].shape[1 if self.batch_first else 0]
        return length if isinstance(length, int) else None

    @property
    def passes(self) -> int:
        """How often the sequence is gone over."""
        return self.layers * (2 if self.both else 1)

    @property
    def matrices(self) -> tuple[fx.Node, ...]:
        """The matrices of the inputs and of the hidden state of each pass, shape (gates * hidden, ...)."""
        each = 4 if self.biased else 2
        return tuple(self.parameters[each * place + k] for place in range(self.passes) for k in (0, 1))


def recurrence(node: fx.Node) -> Recurrence:
    """The arguments of a node that is in :data:`RECURRENT`."""
    source, states, parameters, biased, layers, _, _, both, batch_first = node.args
    assert isinstance(source, fx.Node)
    held: Any = states if isinstance(states, (list, tuple)) else [states]
    given: Any = parameters
    assert isinstance(layers, int)
    return Recurrence(
        kind=RECURRENT[node.target],
        source=source,
        states=tuple(held),
        parameters=tuple(given),
        biased=bool(biased),
        layers=layers,
        both=bool(both),
        batch_first=bool(batch_first),
    )


def why_not(module: fx.GraphModule, node: fx.Node) -> str | None:
    """The reason why a recurrent op stays in fp32; None where it can be int8."""
    found = recurrence(node)
    values = [constant_of(module, each) for each in found.parameters]
    if any(value is None or value.dtype is not torch.float32 for value in values) or not _is_float(found.source):
        return "its weights are computed, or it reads no float32"
    if len(values) != found.passes * (4 if found.biased else 2):
        return "it projects its hidden state (`proj_size`)"
    if found.steps is None or found.steps * found.passes > MOST_STEPS:
        return (
            f"it takes {found.steps} steps in {found.passes} passes, and the compiler writes each step out, which is "
            f"done for {MOST_STEPS} at the most"
        )
    return None


def _is_float(node: fx.Node) -> bool:
    return is_tensor(node) and node.meta["val"].dtype is torch.float32


def matrix_name(node: str, place: int) -> str:
    """Prefix of the constants of a matrix, ``lstm_0`` for example."""
    return f"{node}_{place}"


def integers_name(node: str, place: int) -> str:
    """The constant that holds the integers of a matrix."""
    return f"{matrix_name(node, place)}_weight_int8"
