"""Trials in few words: what each changes against the trial that it is most like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autotune.config import OpConfig, QuantizationConfig
from autotune.notes import counted
from autotune.recipe import recipe_names
from autotune.results.report.choices import choice_numbers
from autotune.trial import Trial

_FEW_OPS = 3
_NOTE_LENGTH = 90


def descriptions(history: Sequence[Trial]) -> dict[int, str]:
    """By number: a short description of each trial."""
    names = sorted({name for trial in history for name in trial.config.ops})
    choices = choice_numbers(history, names)
    found = {trial.number: "the fp32 model as it was given" for trial in history[:1]}
    for index, trial in enumerate(history[1:], start=1):
        alike = [
            place
            for place in range(1, index)
            if history[place].config.ops and history[place].config.runtime == trial.config.runtime
        ]
        counts = (choices[alike] != choices[index]).sum(1) if alike else np.empty(0)
        # The latest of those that differ in fewest ops.
        nearest = alike[len(alike) - 1 - int(np.argmin(counts[::-1]))] if alike else None
        differing = [] if nearest is None else np.flatnonzero(choices[nearest] != choices[index]).tolist()
        changed = [names[place] for place in differing]
        found[trial.number] = _described(trial, None if nearest is None else history[nearest], changed)
    return found


def brief_note(trial: Trial) -> str:
    """The beginning of what the strategy said of a trial."""
    note = trial.note.split("; ")[0]
    return note if len(note) <= _NOTE_LENGTH else f"{note[: _NOTE_LENGTH - 1]}…"


def _described(trial: Trial, nearest: Trial | None, changed: Sequence[str]) -> str:
    config = trial.config
    if config.prepared:
        return "the prepared model, no op quantized"
    if config.is_fp32:
        return "the fp32 model"
    counts = " and ".join(counted(count, f"{precision} op") for precision, count in config.precisions().most_common())
    if nearest is None:
        return _with_training(config, counts)
    if len(changed) > _FEW_OPS:
        return _with_training(config, f"{counts}; {counted(len(changed), 'op')} unlike trial {nearest.number}")
    parts = [f"{name} {_briefly(config[name])}" for name in changed] + _recipe_changes(nearest.config, config)
    what = f"with {', '.join(parts)}" if parts else "again"
    return _with_training(config, f"trial {nearest.number} {what}")


def _recipe_changes(first: QuantizationConfig, second: QuantizationConfig) -> list[str]:
    before, after = first.recipe, second.recipe
    declared = sorted({*before.options, *after.options})
    changed = []
    for name in recipe_names(declared):
        old, new = (
            recipe.options.get(name, "default") if name in declared else recipe[name] for recipe in (before, after)
        )
        if old != new:
            changed.append(f"{name.replace('_', ' ')} {str(new).lower()}")
    return changed


def _briefly(choice: OpConfig) -> str:
    return str(choice.precision) if choice.calibration is None else f"{choice.precision} ({choice.calibration})"


def _with_training(config: QuantizationConfig, text: str) -> str:
    return f"{text}, trained" if config.trained else text
