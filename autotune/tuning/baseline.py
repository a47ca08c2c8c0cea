"""The first trial of a study: the fp32 model, measured once however many runs share the study."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Generic

from optuna.samplers import RandomSampler

from autotune.adapter import ModelT
from autotune.config import QuantizationConfig
from autotune.errors import WorkspaceError
from autotune.evaluation import AnyEvaluator
from autotune.observer import Observer
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.claims import TrialGivenUp
from autotune.tuning.history import History, OpenTrial

_NOTE = "fp32 baseline"


class BaselineTrial(Generic[ModelT]):
    """Measures the fp32 model, or takes its figures from the history.

    Args:
        evaluator: Measures it.
        history: Records it.
        observer: Is told of it.
        record: Records the finished trial.
        fingerprint: Identity of the model.
        seed: Seed of the run.
    """

    def __init__(
        self,
        evaluator: AnyEvaluator[ModelT],
        history: History,
        observer: Observer,
        *,
        record: Callable[[OpenTrial, Trial], None],
        fingerprint: str,
        seed: int,
    ) -> None:
        self._evaluator = evaluator
        self._history = history
        self._observer = observer
        self._record = record
        self._fingerprint = fingerprint
        self._seed = seed

    def __call__(self, deadline: float | None) -> Trial:
        """The finished trial.

        Args:
            deadline: A ``time.monotonic()`` value.

        Raises:
            Exception: Whatever the user's own ``eval_fn`` raises, unchanged.
            DeadlineReached: The deadline passed; the history has no trial of this run then.
        """
        claims = self._history.claims
        while True:
            claims.release_dead()
            trials = self._history.trials
            if trials and trials[0].measurement is not None:
                self._evaluator.resume(trials[0].measurement, deadline=deadline)
                return self._completed(trials[0], trials[0].measurement, deadline)
            if trials and trials[0].state is TrialState.RUNNING:
                claims.wait(deadline=deadline)
                continue
            with contextlib.suppress(TrialGivenUp):
                if (measured := self._first(deadline)) is not None:
                    return measured

    def _first(self, deadline: float | None) -> Trial | None:
        """Measure it as the first trial; None where another run was first."""
        opened = self._history.open(RandomSampler(seed=self._seed))
        try:
            self._history.claims.await_turn(opened.number, deadline)
            if self._history.trials:
                self._history.discard(opened)
                return None
            config = QuantizationConfig()
            self._history.start(opened, config, _NOTE)
            self._history.identify(opened, self._fingerprint)
            self._observer.trial_started(opened.number, config, _NOTE)
            started = time.monotonic()
            measurement = self._evaluator.baseline(deadline=deadline)
        except BaseException:
            with contextlib.suppress(WorkspaceError):
                self._history.discard(opened)
            raise
        trial = Trial(
            number=opened.number,
            config=config,
            state=TrialState.COMPLETED,
            measurement=measurement,
            duration_s=time.monotonic() - started,
            note=_NOTE,
        )
        self._record(opened, trial)
        return trial

    def _completed(self, baseline: Trial, measured: Measurement, deadline: float | None) -> Trial:
        """The baseline of an earlier run with what its deadline cut off."""
        whole = self._evaluator.complete_baseline(measured, deadline=deadline)
        if whole == measured:
            return baseline
        revised = dataclasses.replace(baseline, measurement=whole)
        self._history.revise(revised)
        return revised
