"""One runtime's part of a run: its model, and the problem that its search solves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from optuna.distributions import BaseDistribution

from autotune.adapter import ModelT, Statistics
from autotune.config import QuantizationConfig
from autotune.strategy import Draw, Problem
from autotune.trial import Trial
from autotune.tuning.history import History
from autotune.tuning.preparation import in_terms_of_fp32


@dataclass(frozen=True, kw_only=True)
class Side(Generic[ModelT]):
    """One runtime's part of a run. A run of one framework has one side, without a name.

    A strategy sees the trials of its own side, as a run of that runtime alone would have them: configs without the
    runtime, and speeds relative to the fp32 model there.

    Attributes:
        runtime: Name of the runtime; None in a run of one framework.
        given: The user's model as it was given.
        model: The same, prepared.
        differs: Whether the two execute differently.
        statistics: Statistics of its calibration.
        problem: Problem of its strategy.
        fp32_speed: Speed of the user's model on this runtime, relative to the baseline.
    """

    runtime: str | None = None
    given: ModelT
    model: ModelT
    differs: bool
    statistics: Statistics
    problem: Problem
    fp32_speed: float = 1.0

    @property
    def history_key(self) -> str:
        """Prefix of the names under which the history keeps figures of this side."""
        return key_of(self.runtime)

    def base(self) -> ModelT:
        """The model that candidates are made of."""
        return self.model

    def config(self, proposed: QuantizationConfig) -> QuantizationConfig:
        """A strategy's config as the history has it."""
        return dataclasses.replace(proposed, runtime=self.runtime)

    def own(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials of this runtime without the baseline and what was trained, those of a prepared model included."""
        return [trial for trial in trials[1:] if trial.config.runtime == self.runtime and not trial.config.trained]

    def shown(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials as a strategy sees them.

        Args:
            trials: The baseline first, speeds relative to the baseline.
        """
        if self.runtime is None:
            return in_terms_of_fp32(trials)
        # A config without a quantized op names no runtime: it makes the fp32 model, whatever proposes it.
        own = [each for each in trials[1:] if each.config.runtime == self.runtime or each.config.is_fp32]
        return [self._alone(trial) for trial in in_terms_of_fp32([trials[0], *own], self.fp32_speed)]

    def draw(self, draw: Draw) -> Draw:
        """Parameters by names of this runtime's: two runtimes offer different choices for an op of one name."""
        if self.runtime is None:
            return draw

        def drawn(distributions: Mapping[str, BaseDistribution]) -> Mapping[str, Any]:
            named = draw({self.history_key + name: each for name, each in distributions.items()})
            return {name.removeprefix(self.history_key): value for name, value in named.items()}

        return drawn

    def _alone(self, trial: Trial) -> Trial:
        params = {name.removeprefix(self.history_key): value for name, value in trial.params.items()}
        return dataclasses.replace(trial, config=dataclasses.replace(trial.config, runtime=None), params=params)


class SideHistory:
    """The history as one runtime's insights see it: its own trials, and figures under names of its own.

    Args:
        history: The history of the run.
        runtime: Name of the runtime; None in a run of one framework.
    """

    def __init__(self, history: History, runtime: str | None) -> None:
        self._history = history
        self._runtime = runtime

    @property
    def trials(self) -> Sequence[Trial]:
        """The baseline, and the trials of this runtime without what was trained."""
        trials = self._history.trials
        own = (trial for trial in trials[1:] if trial.config.runtime == self._runtime and not trial.config.trained)
        return [*trials[:1], *own]

    def kept(self, name: str) -> Any:
        """See :meth:`History.kept`."""
        return self._history.kept(key_of(self._runtime) + name)

    def keep(self, name: str, value: Any) -> None:
        """See :meth:`History.keep`."""
        self._history.keep(key_of(self._runtime) + name, value)


def key_of(runtime: str | None) -> str:
    """Prefix of the names of what is kept of one runtime; empty in a run of one framework."""
    return "" if runtime is None else f"{runtime}/"
