"""A quantized model, and what a user should know of it: where Paddle computes otherwise than its config asks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from autotune.adapter import Execution
from autotune.adapters.paddle.model import PaddleModel
from autotune.adapters.paddle.ops import quantizable_ops
from autotune.adapters.paddle.runtime import Kernel, Probe, op_of, zeros
from autotune.errors import ApplyError
from autotune.notes import listed

_ONE_THREAD = Execution(threads=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate(PaddleModel):
    """A quantized model.

    Attributes:
        asked: Ops that are to be int8.
        sample: Shapes of the inputs for one sample; empty where none is known.
    """

    asked: tuple[str, ...]
    sample: tuple[tuple[int, ...], ...]

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, including what Paddle computes in another type than was asked for."""
        lines = []
        if self.stayed_fp32:
            lines.append(f"{listed(self.stayed_fp32)}: Paddle computes them in fp32 all the same")
        if self.uncalled:
            lines.append(f"{listed(self.uncalled)}: Paddle computes them in int8 too, though nobody chose it")
        return (*self.told, *lines)

    @cached_property
    def stayed_fp32(self) -> tuple[str, ...]:
        """Ops that computed in fp32 though they are to be int8; none where Paddle refuses the candidate."""
        ran = self._ran[0]
        return tuple(name for name in self.asked if name in ran and not ran[name].integers)

    @cached_property
    def uncalled(self) -> tuple[str, ...]:
        """Ops, or kinds of ops, that computed in integers though the config does not name them."""
        ran, kinds = self._ran
        return (*(name for name, kernel in ran.items() if kernel.integers and name not in self.asked), *kinds)

    @cached_property
    def _ran(self) -> tuple[dict[str, Kernel], list[str]]:
        """By op: the kernel of one call; and kinds of other ops in integers."""
        if not self.sample:
            return {}, []
        try:
            probe = Probe(self, _ONE_THREAD)
            feeds = zeros(self, self.sample)
            kernels, _ = probe.run(feeds)
        except ApplyError:
            return {}, []  # whoever runs the candidate is told
        return by_op(self, kernels), probe.uncalled


def by_op(model: PaddleModel, kernels: list[Kernel]) -> dict[str, Kernel]:
    """Kernels by the ops that they ran for, in the order of the program."""
    names = names_by_weight(model)
    return {names[weight]: each for each in kernels if (weight := op_of(each.weight)) in names}


def names_by_weight(model: PaddleModel) -> dict[str, str]:
    """By name of a weight: the op, of a prepared model or of a candidate."""
    program = model.program
    constants = {op_of(name): array for name, array in model.constants.items()}
    for op in program.blocks[0].ops:
        for item in op.inputs:
            for place, name in enumerate(item.arguments):
                if item.parameter == "Filter":
                    item.arguments[place] = op_of(name)
    floats = {name: array.astype("float32") for name, array in constants.items() if array.ndim == 4}
    return {op.weight: op.name for op in quantizable_ops(program, floats, model.names)}
