"""Choices of many trials as numbers, so that trials are compared quickly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autotune.config import FP32, OpConfig
from autotune.trial import Trial


def choice_numbers(trials: Sequence[Trial], names: Sequence[str]) -> npt.NDArray[np.int32]:
    """A number for each choice, shape (trials, ops); equal choices have equal numbers, and that of fp32 is 0."""
    numbers: dict[OpConfig, int] = {FP32: 0}
    known: dict[int, int] = {id(FP32): 0}  # hashing a choice takes longer than all else here
    found = np.zeros((len(trials), len(names)), np.int32)
    for row, trial in enumerate(trials):
        for column, name in enumerate(names):
            choice = trial.config[name]
            number = known.get(id(choice))
            if number is None:
                number = known[id(choice)] = numbers.setdefault(choice, len(numbers))
            found[row, column] = number
    return found
