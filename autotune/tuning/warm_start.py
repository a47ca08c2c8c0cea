"""Warm start: the answer of an earlier run is the first candidate after fp32."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Generic

from autotune.adapter import ModelT
from autotune.config import QuantizationConfig
from autotune.criterion import Verdict
from autotune.mapping import Ops, map_config
from autotune.results.started import StartedFrom
from autotune.results.stored_config import StoredConfig
from autotune.strategy import Objective, Proposal
from autotune.trial import Trial, TrialState
from autotune.tuning.search import Search
from autotune.tuning.selection import faster, objective_of
from autotune.tuning.setup import Setup, op_types
from autotune.tuning.side import Side, SideHistory
from autotune.tuning.stages import Stages


class WarmStart(Generic[ModelT]):
    """Tries a stored config before the search.

    Args:
        stored: The config, and the run that found it where that is known.
        stages: Stages of this run.
        framework: Name of this run's adapter, where it has one.
    """

    def __init__(self, stored: StoredConfig, stages: Stages, framework: str) -> None:
        self._stored = stored
        self._stages = stages
        self._framework = framework
        self._config: QuantizationConfig | None = None

    def attempt(self, setup: Setup[ModelT], search: Search[ModelT]) -> None:
        """Evaluate the config as it maps to this model, unless the history has it.

        Raises:
            DeadlineReached: The time was up; the config counts as untried.
        """
        if self._stored.config.is_fp32 or self._stored.config.prepared:
            self._stages.note(
                f"The config of {self._stored.name} is fp32, so that there is no config to start from: "
                "`WORKSPACE:TRIAL` names a trial of it"
            )
            return
        side = self._side(setup)
        ops = Ops(types=op_types(side.problem.space), readers=_readers(SideHistory(setup.history, side.runtime)))
        mapped = map_config(self._stored.config, _known(self._stored), side.problem.space, ops)
        here = side.runtime or self._framework
        if self._stored.framework not in (None, here):
            self._stages.note(f"{self._stored.name}: found on {self._stored.framework}, and tried on {here}")
        self._stages.note(*(f"{self._stored.name}: {note}" for note in mapped.notes))
        if mapped.config.is_fp32:
            self._stages.note(f"Nothing of {self._stored.name} could be mapped to this model")
            return
        self._config = side.config(mapped.config)
        if not any(trial.config == self._config for trial in setup.history.trials):
            proposal = Proposal(config=self._config, note=f"started from {self._stored.name}")
            search.attempt(proposal, side, side.base)

    def outcome(self, trials: Sequence[Trial], objective: Objective) -> StartedFrom:
        """Whether what is known of the trials by now confirms the config.

        Args:
            trials: The baseline first.
            objective: The figure to minimize.
        """
        name = self._stored.name
        if self._config is None:
            return StartedFrom(source=name, verdict=Verdict.UNDECIDED, reason="there was nothing of it to evaluate")
        trial = next((each for each in trials if each.config == self._config), None)
        if trial is None or trial.state is TrialState.RUNNING:
            return StartedFrom(source=name, verdict=Verdict.UNDECIDED, reason="the run ended before its evaluation")
        verdict, reason = judged(trial, trials[0], objective)
        return StartedFrom(source=name, verdict=verdict, trial=trial.number, reason=reason)

    def _side(self, setup: Setup[ModelT]) -> Side[ModelT]:
        """The side of the config's runtime; the baseline's where this run has none of that name."""
        runtime = self._stored.framework
        return next((side for side in setup.sides if side.runtime == runtime), setup.baseline)


def judged(trial: Trial, baseline: Trial, objective: Objective) -> tuple[Verdict, str]:
    """Whether a trial keeps the target and improves on fp32, and why not.

    Args:
        trial: The trial, which is finished.
        baseline: The trial of fp32.
        objective: The figure to minimize.
    """
    measured = trial.measurement
    if trial.state is TrialState.FAILED or measured is None:
        return Verdict.MISSED, f"it failed: {trial.reason}"
    if measured.verdict is Verdict.MISSED:
        return Verdict.MISSED, "it misses the target"
    if trial.state is TrialState.PRUNED:
        return Verdict.MISSED, str(trial.reason)
    if measured.verdict is not Verdict.MET:
        return Verdict.UNDECIDED, "the evaluation set is too small to tell"
    return _improves(trial, baseline, objective)


def _improves(trial: Trial, baseline: Trial, objective: Objective) -> tuple[Verdict, str]:
    """The same for a trial that keeps the target."""
    if objective is Objective.ACCURACY:
        return Verdict.MET, ""
    if objective is not Objective.LATENCY:
        better = objective_of(trial, objective) < objective_of(baseline, objective)
        return (Verdict.MET, "") if better else (Verdict.MISSED, f"its {objective} is no better than fp32's")
    proven = faster(trial)
    if proven is None:
        return Verdict.UNDECIDED, "the machine was too busy to tell whether it is faster than fp32"
    return (Verdict.MET, "") if proven else (Verdict.MISSED, "it is not faster than fp32")


def untrained(stored: StoredConfig) -> StoredConfig:
    """The same config without what was trained, whose weights are not those of another model."""
    return dataclasses.replace(stored, config=dataclasses.replace(stored.config, trained=False))


def _known(stored: StoredConfig) -> Ops | None:
    """The graph that a config was found for; None where its run is not known."""
    if stored.summary is None or not set(stored.config.ops) <= set(stored.op_types):
        return None
    return Ops(types=stored.op_types, readers=stored.summary.evidence.readers or {})


def _readers(history: SideHistory) -> Mapping[str, Sequence[str]]:
    graph: Mapping[str, Any] = history.kept("graph") or {}
    found: Mapping[str, Sequence[str]] = graph.get("readers") or {}
    return found
