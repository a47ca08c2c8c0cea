"""The tensors of a program as Paddle's integer passes see them: which share a scale, and which are unsigned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.adapter import Array
from autotune.adapters.paddle import program as programs
from autotune.adapters.paddle.ops import SHARING, QuantizableOp, only_reader, readers_of, writers_of

_RELU = ("relu", "relu6")


@dataclass(frozen=True, kw_only=True)
class Residual:
    """A sum that Paddle fuses into a convolution.

    The convolution computes in integers only where all of these tensors have scales. oneDNN adds in place, so that the
    sum is written in the type of what is added, whatever its scale was made for.

    Attributes:
        own: The tensor that the convolution gives.
        other: The tensor that is added.
        result: The sum.
        last: The tensor behind the activation that is fused too; the sum where there is none.
        narrow: Whether ``last`` has no negative values and is written as s8 all the same, before it becomes the u8 that
            its readers take: only half of the integers of u8 come through.
        clipped: Whether ``last`` has negative values and is written as u8, which holds none of them.
    """

    own: str
    other: str
    result: str
    last: str
    narrow: bool
    clipped: bool


class Tensors:
    """Writers, readers and scales of the tensors of a prepared program.

    Args:
        program: The program.
        constants: Its constants.
    """

    def __init__(self, program: Any, constants: Mapping[str, Array]) -> None:
        self._constants = constants
        self.readers = readers_of(program)
        self.writers = writers_of(program)

    def group(self, name: str) -> tuple[str, ...]:
        """The tensors that share a scale with one, itself included.

        Pooling and what moves values about passes on a scale in both directions, also where it computes in fp32.
        """
        found: dict[str, None] = {}
        pending = [name]
        while pending:
            tensor = pending.pop()
            if tensor in found:
                continue
            found[tensor] = None
            writer = self.writers.get(tensor)
            if writer is not None and writer.type in SHARING:
                pending.append(source_of(writer))
            for reader in self.readers.get(tensor, []):
                if reader.type in SHARING and source_of(reader) == tensor:
                    pending.extend(results_of(reader))
        return tuple(found)

    def unsigned(self, name: str) -> bool:
        """Whether Paddle has u8 for a tensor, which holds no negative values.

        It has behind a Relu, and behind a Relu6 that it fuses into the convolution before it.
        """
        writer = self.writers.get(name)
        while writer is not None and writer.type in SHARING:
            writer = self.writers.get(source_of(writer))
        if writer is None or writer.type not in _RELU:
            return False
        before = programs.read(writer, "X")
        return writer.type == "relu" or (self._is_sum(before) and only_reader(before, self.readers) is not None)

    def _is_sum(self, name: str) -> bool:
        """Whether a convolution writes a tensor, its bias or a residual sum included."""
        writer = self.writers.get(name)
        if writer is None or writer.type != "elementwise_add":
            return False
        sources = [self.writers.get(each) for each in programs.all_read(writer) if each not in self._constants]
        kinds = [each.type for each in sources if each is not None]
        return any(kind in ("conv2d", "depthwise_conv2d") for kind in kinds) or (
            len(kinds) == 2 and any(self._is_sum(each) for each in programs.all_read(writer))
        )

    def residual(self, op: QuantizableOp) -> Residual | None:
        """The sum that Paddle fuses into a convolution; None where nothing is added to it."""
        add = only_reader(op.output, self.readers)
        if add is None or add.type != "elementwise_add":
            return None
        sides = programs.all_read(add)
        if len(set(sides)) != 2 or any(side in self._constants for side in sides):
            return None
        other = sides[1] if sides[0] == op.output else sides[0]
        result = programs.written(add, "Out")
        behind = only_reader(result, self.readers)
        last = programs.written(behind, "Out") if behind is not None and behind.type in _RELU else result
        return Residual(
            own=op.output,
            other=other,
            result=result,
            last=last,
            narrow=self.unsigned(last) and not self.unsigned(other),
            clipped=self.unsigned(other) and not self.unsigned(last),
        )

    def read_or_summed(self, op: QuantizableOp) -> tuple[str, ...]:
        """The tensors that need scales when an op is int8, each once: what it reads, and those of its sum."""
        residual = self.residual(op)
        around = () if residual is None else (residual.own, residual.other, residual.result, residual.last)
        return tuple(dict.fromkeys((op.source, *around)))

    def around(self, ops: Sequence[QuantizableOp]) -> list[str]:
        """All tensors that may get a scale when these ops are int8."""
        wanted = [name for op in ops for name in self.read_or_summed(op)]
        return list(dict.fromkeys(member for name in wanted for member in self.group(name)))


def source_of(op: Any) -> str:
    """The tensor whose values an op passes on."""
    return programs.read(op, "Input") if op.type == "slice" else programs.read(op, "X")


def results_of(op: Any) -> list[str]:
    """The tensors that hold these values afterwards."""
    return [name for item in op.outputs if item.parameter == "Out" for name in item.arguments]
