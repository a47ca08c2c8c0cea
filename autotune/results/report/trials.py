"""Trials in few words: what each changes against the trial that it is most like."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.config import OpConfig, QuantizationConfig
from autotune.recipe import recipe_names
from autotune.trial import Trial

_FEW_OPS = 3
_NOTE_LENGTH = 90


def descriptions(history: Sequence[Trial]) -> dict[int, str]:
    """By number: a short description of each trial."""
    found: dict[int, str] = {}
    for index, trial in enumerate(history):
        found[trial.number] = _described(trial, history[1:index]) if index else "the fp32 model as it was given"
    return found


def brief_note(trial: Trial) -> str:
    """The beginning of what the strategy said of a trial."""
    note = trial.note.split("; ")[0]
    return note if len(note) <= _NOTE_LENGTH else f"{note[: _NOTE_LENGTH - 1]}…"


def _described(trial: Trial, earlier: Sequence[Trial]) -> str:
    config = trial.config
    if config.prepared:
        return "the prepared model, no op quantized"
    if config.is_fp32:
        return "the fp32 model"
    counts = ", ".join(f"{count} {precision}" for precision, count in config.precisions().most_common())
    alike = [each for each in earlier if each.config.runtime == config.runtime and each.config.ops]
    if not alike:
        return _with_training(config, f"{counts} ops")
    nearest = min(alike, key=lambda each: (len(differing_ops(each.config, config)), -each.number))
    changed = differing_ops(nearest.config, config)
    recipe = _recipe_changes(nearest.config, config)
    if len(changed) > _FEW_OPS:
        return _with_training(config, f"{counts} ops; {len(changed)} ops unlike trial {nearest.number}")
    parts = [f"{name} {_briefly(config[name])}" for name in changed] + recipe
    what = f"with {', '.join(parts)}" if parts else "again"
    return _with_training(config, f"trial {nearest.number} {what}")


def differing_ops(first: QuantizationConfig, second: QuantizationConfig) -> list[str]:
    """The ops whose choices differ, by name."""
    return sorted(name for name in {*first.ops, *second.ops} if first[name] != second[name])


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
