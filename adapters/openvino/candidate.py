"""A quantized model, and what a user should know of it: where OpenVINO computes otherwise than its config asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from autotune.adapters.openvino.model import OpenVinoModel
from autotune.adapters.openvino.runtime import not_as_asked
from autotune.adapters.openvino.session import half_types
from autotune.config import Precision
from autotune.errors import ApplyError
from autotune.notes import listed

HALF = {Precision.BF16: "bf16", Precision.FP16: "f16"}
"""Precisions of 16 bits, as OpenVINO calls them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate(OpenVinoModel):
    """A quantized model.

    Attributes:
        asked: By op that is not to be fp32: what it is to compute in.
        sample: Shapes of the inputs for one sample; empty where none is known.
    """

    asked: Mapping[str, Precision]
    sample: tuple[tuple[int, ...], ...]

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, including the ops that OpenVINO leaves in fp32 when it compiles the model."""
        stayed = self.stayed_fp32
        found = [f"{listed(stayed)}: OpenVINO computes them in fp32 all the same"] if stayed else []
        return (*self.told, *found)

    @cached_property
    def stayed_fp32(self) -> tuple[str, ...]:
        """Ops that OpenVINO computes in fp32 though they are to be in less; none where it refuses the candidate."""
        try:
            return tuple(not_as_asked(self, self.asked, self.sample))
        except ApplyError:
            return ()  # whoever runs the candidate is told


def lines_on_floats(floats: str, rest: Sequence[str]) -> list[str]:
    """Notes for the user on the type in which ops compute that are not int8.

    Args:
        floats: The type, as OpenVINO calls it.
        rest: Ops that the config leaves in fp32.
    """
    if not half_types():
        return []
    lines = [
        f"Load the saved model with INFERENCE_PRECISION_HINT={floats}, as it was measured: OpenVINO may not by itself"
    ]
    if rest and floats in HALF.values():
        lines.append(f"{listed(rest)}: in {floats} too, since OpenVINO has one floating-point type for a whole model")
    return lines
