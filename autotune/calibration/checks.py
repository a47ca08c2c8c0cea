"""Checks that every adapter makes when it calibrates: whole batches, numbers in them, and parts that fit the memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.errors import DataError, ModelError

EXPOSED_BYTES = 512 * 2**20
"""Most that exposed tensors of one run may take together; a batch that would need more is run once for each part."""

_Feeds = Mapping[str, npt.NDArray[Any]]


def require_inputs(feeds: Mapping[str, object], names: Sequence[str], index: int) -> None:
    """See that calibration batch ``index`` has every input of the model.

    Raises:
        DataError: It lacks some.
    """
    if missing := [name for name in names if name not in feeds]:
        raise DataError(f"Calibration batch {index} must name every input of the model, but lacks {missing}")


def complete(batches: Iterable[_Feeds], names: Sequence[str]) -> Iterator[_Feeds]:
    """The calibration batches, each checked for the model's inputs before anything reads it.

    Raises:
        DataError: A batch lacks some.
    """
    for index, feeds in enumerate(batches):
        require_inputs(feeds, names, index)
        yield feeds


def require_numbers(name: str, array: npt.NDArray[Any], index: int) -> None:
    """See that an input of floats in calibration batch ``index`` holds no NaN.

    Raises:
        DataError: It does.
    """
    bad = int(np.isnan(array).sum())
    if bad:
        raise DataError(
            f"Input {name!r} must hold numbers, but {bad} of its {array.size} values in calibration batch {index} are "
            "NaN. Fill them in, or leave such samples out"
        )


def require_samples(samples: int) -> None:
    """See that calibration read anything.

    Raises:
        DataError: It read no sample.
    """
    if samples == 0:
        raise DataError("Calibration needs at least one batch, but there was none")


def require_sound(weight: str, values: npt.NDArray[Any], tensor: str) -> None:
    """See that what makes NaN of sound inputs is the computation and not a weight.

    Args:
        weight: How the message names the weight.
        values: Values of the tensor.
        tensor: A tensor that NaN reached.

    Raises:
        ModelError: The weight holds NaN.
    """
    bad = int(np.isnan(values).sum())
    if bad:
        raise ModelError(
            f"The model's weights must hold numbers, but {bad} of the {values.size} values of {weight} are NaN, which "
            f"reach {tensor!r}. The model was damaged in training or export; no data mends it"
        )


def parts_within(limit: int, sizes: Mapping[str, int], names: Sequence[str]) -> list[tuple[str, ...]]:
    """Share tensors out, in their order, so that those of one part take no more than ``limit`` bytes together.

    Args:
        limit: Largest part in bytes; a tensor that exceeds it is a part of its own.
        sizes: By tensor, in bytes.
        names: The tensors.
    """
    parts: list[tuple[str, ...]] = []
    used = limit + 1
    for name in names:
        if used + sizes[name] > limit:
            parts.append(())
            used = 0
        parts[-1] += (name,)
        used += sizes[name]
    return parts
