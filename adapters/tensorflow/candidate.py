"""A quantized model, and what a user should know of it: where LiteRT computes otherwise than its config asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from autotune.adapters.tensorflow.kernels import CONVERSIONS, Kernel, kernels
from autotune.adapters.tensorflow.model import TensorFlowModel
from autotune.config import Precision
from autotune.errors import ApplyError
from autotune.notes import listed


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate(TensorFlowModel):
    """A quantized model.

    Attributes:
        outputs_of: By op of the space: places of the tensors that it writes, in the fp32 model and in this one.
        followers: The same of the ops that compute in int8 since their neighbours do.
    """

    outputs_of: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    followers: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, including the ops that LiteRT computes otherwise than asked."""
        return (*self.told, *self._found)

    @cached_property
    def not_as_asked(self) -> tuple[str, ...]:
        """Ops that compute in fp32 though they are to be in less, or outside of XNNPACK; none where LiteRT refuses."""
        computed = self._computed
        return tuple(
            name for name, precision in self.asked.items() if name in computed and not _fits(computed[name], precision)
        )

    @property
    def _found(self) -> list[str]:
        computed = self._computed
        stayed = [name for name in self.not_as_asked if computed[name].xnnpack]
        slow = [name for name in self.not_as_asked if not computed[name].xnnpack]
        unasked = [name for name, each in computed.items() if each.integers and name not in self.asked]
        lines = [f"{listed(stayed)}: LiteRT computes them in fp32 all the same"] if stayed else []
        lines += [f"{listed(slow)}: XNNPACK has no kernel for them as asked, and LiteRT's own are slow"] if slow else []
        lines += [f"{listed(unasked)}: LiteRT computes them in int8 though the config does not"] if unasked else []
        return lines

    @cached_property
    def _computed(self) -> dict[str, Kernel]:
        """By op of the space: its kernel. A model that LiteRT refuses has none; whoever runs it is told."""
        try:
            ready = kernels(self.content, self.inputs, ())
        except ApplyError:
            return {}
        by_output = {place: each for each in ready if each.kind not in CONVERSIONS for place in each.outputs}
        return {name: by_output[places[0]] for name, places in self.outputs_of.items() if places[0] in by_output}


def _fits(kernel: Kernel, precision: Precision) -> bool:
    if not kernel.xnnpack:
        return False
    if precision is Precision.INT8:
        return kernel.integers
    # XNNPACK unpacks weights that are stored in 8 bits when it makes the model ready.
    return kernel.integer_weight or precision is not Precision.INT8_DYNAMIC
