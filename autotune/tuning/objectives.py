"""Checks of a tuner: what goes with which objective, and the names of several models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from autotune.constraints import Constraints
from autotune.errors import InputError
from autotune.strategy import Objective

if TYPE_CHECKING:
    from autotune.tuning.tuner import Tuner


def require_consistent_objective(tuner: Tuner) -> None:
    """See that an objective has what belongs to it, and nothing that belongs to another one.

    Raises:
        InputError: It has not.
    """
    if tuner.constraints is not None and not isinstance(tuner.constraints, Constraints):
        raise InputError(
            f"`constraints` must be Constraints, as Constraints(speedup=2.0), but got {tuner.constraints!r}"
        )
    if (tuner.objective == Objective.ACCURACY) != (tuner.constraints is not None):
        raise InputError(
            'objective="accuracy" and `constraints` go together, as in constraints=Constraints(latency_ms=5.0): least '
            f"loss needs a limit to be searched within, but got {str(tuner.objective)!r} and {tuner.constraints}"
        )
    if tuner.objective == Objective.ACCURACY and tuner.train_fn is not None:
        raise InputError('`train_fn` mends a target that is missed, and objective="accuracy" has none. Leave it out')
    if tuner.instances < 1:
        raise InputError(f"`instances >= 1` must hold, but got {tuner.instances}")
    if tuner.objective == Objective.THROUGHPUT:
        assert tuner.throughput_options  # the options check themselves when they are made
    elif tuner.instances > 1:
        raise InputError(
            f'`instances` goes with objective="throughput", but got {tuner.instances} with {tuner.objective}'
        )


def require_names(models: Mapping[str, object], storage: str | None) -> None:
    """See that several models have names that are names of folders, and histories of their own.

    Raises:
        InputError: They have not.
    """
    if not isinstance(models, Mapping) or not models:
        raise InputError(
            f"`models` must be a dict of models by names of your own, with one or more, but got {models!r:.80}"
        )
    for name in models:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}", name):
            raise InputError(f"A model's name must be letters, digits, `.`, `_` and `-`, but got {name!r}")
    if storage is not None:
        raise InputError("`storage` holds the history of one model. Leave it out: each has a folder in `workspace`")
