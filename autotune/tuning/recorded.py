"""Trials that are recorded without a measurement of their own: failures, and models that an earlier trial measured."""

from __future__ import annotations

import dataclasses

from autotune.strategy import Proposal
from autotune.trial import Trial, TrialState


def answers(earlier: Trial, proposal: Proposal) -> bool:
    """Whether what is known of an earlier trial of the same model is all that a proposal asks for."""
    if earlier.state is TrialState.RUNNING:
        return False
    measured = earlier.measurement
    return not proposal.needs_accuracy or measured is None or (measured.loss is not None and measured.complete)


def same_model(number: int, proposal: Proposal, earlier: Trial, duration_s: float) -> Trial:
    """The trial that is recorded for a config that makes the same model, scales included, as an earlier one."""
    return dataclasses.replace(
        earlier,
        number=number,
        config=proposal.config,
        duration_s=duration_s,
        note=f"{proposal.note} (the same model as trial {earlier.number})".strip(),
        params={},
        same_as=earlier.number if earlier.same_as is None else earlier.same_as,
    )


def describe(error: Exception) -> str:
    """A line that says what failed; errors of other libraries are named by their type."""
    cause = error.__cause__
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else ""
    text = first if type(error).__module__.startswith("autotune") else f"{type(error).__name__}: {first}"
    if cause is not None and str(cause) not in text:
        text += f" ({type(cause).__name__}: {cause})"
    return text[:500]
