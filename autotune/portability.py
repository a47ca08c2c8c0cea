"""Results that other CPUs share: where two 8-bit products are summed in 16 bits, weights of 8 bits are too wide.

x86 multiplies u8 activations by s8 weights with ``VPMADDUBSW``, which adds two neighbouring products in 16 bits with
saturation; with VNNI the sum has 32 bits. A file tuned on the one loses accuracy on the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from autotune.config import Precision, QuantizedType
from autotune.errors import ApplyError
from autotune.host import Host
from autotune.space import OpSpace, PrecisionSpace, TuningSpace

_NAMED = 5
"""Ops that a message names; the report has all."""


def portable_space(space: TuningSpace) -> TuningSpace:
    """The part of a space that cannot saturate on any CPU.

    Two neighbouring weights of one sign sum to 128 at most: 255 x 128 is 32,640 and stays below 32,767. Weights of 7
    bits satisfy that too, and remain a choice. Activations are u8, since a product of two activations has no weight
    that could be narrowed, and u8 by u8 is summed in 32 bits everywhere.
    """
    return TuningSpace(
        ops=tuple(_portable_op(op) for op in space.ops),
        recipe=dataclasses.replace(space.recipe, reduce_range=(False, True), bound_pairs=(True,)),
    )


def require_portable(saturating: Sequence[str]) -> None:
    """See that a candidate has no op that can saturate.

    Raises:
        ApplyError: It has; the message names them.
    """
    if saturating:
        raise ApplyError(
            f"A portable model must not saturate on CPUs without VNNI, but {_listed(saturating)} can: two neighbouring "
            "products of their weights may sum to more than 32,767"
        )


def saturation_note(saturating: Sequence[str], host: Host) -> str | None:
    """A note on the answer's accuracy on other CPUs; None where no op can saturate."""
    if not saturating:
        return None
    which = (
        f"{_listed(saturating)} can saturate on x86 CPUs without VNNI, where two 8-bit products are summed in 16 bits"
    )
    if host.saturates_u8s8:
        return f"{which}. This CPU is one of them: the accuracy above has it in, and other CPUs may give another one"
    return (
        f"{which}: the accuracy above may not hold there. `autotune check` runs a saved model as such a CPU would; "
        "portable=True (`portable: true`) admits no such model"
    )


def _portable_op(op: OpSpace) -> OpSpace:
    return dataclasses.replace(op, precisions=tuple(_portable_precision(space) for space in op.precisions))


def _portable_precision(space: PrecisionSpace) -> PrecisionSpace:
    unsigned = tuple(scheme for scheme in space.activations if scheme.dtype is QuantizedType.U8)
    if space.precision is Precision.FP32 or not unsigned:
        return space
    return dataclasses.replace(space, activations=unsigned)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} op{'s' if len(names) > 1 else ''} ({', '.join(names[:_NAMED])}{more})"
