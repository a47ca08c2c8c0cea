"""Candidates whose speed is scripted and whose accuracy is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from autotune.criterion import Interval
from autotune.errors import DeadlineReached
from autotune.evaluation import Evaluation, Evaluator
from autotune.trial import Measurement, TrialState


def script_speeds(monkeypatch: pytest.MonkeyPatch, speedup_of: Callable[[Any], float]) -> None:
    """Let every candidate be as fast as ``speedup_of`` says, within 1 %; no race takes place."""
    evaluate = Evaluator.evaluate

    def scripted(self: Any, candidate: Any, **options: Any) -> Evaluation:
        speedup = speedup_of(candidate)
        interval = Interval(low=speedup * 0.99, high=speedup * 1.01, confidence=0.95)
        incumbent, worth_from = options.pop("incumbent", None), options.pop("worth_from", None)
        slower = incumbent is not None and interval.high < (incumbent.speedup or 0.0)
        slower = slower and not options.get("needs_accuracy")
        slower = slower or (worth_from is not None and interval.low <= worth_from)
        figures: dict[str, Any] = {"speedup": speedup, "speedup_interval": interval, "latency_decided": True}
        if slower:
            return Evaluation(state=TrialState.PRUNED, measurement=Measurement(**figures), reason="slower")
        found = evaluate(self, candidate, **options)
        return dataclasses.replace(found, measurement=dataclasses.replace(found.measurement, **figures))

    def unraced(*_arguments: Any, **_options: Any) -> Any:
        raise DeadlineReached("scripted: no race")

    def timed(_self: Any, candidate: Any, **_options: Any) -> Measurement:
        speedup = speedup_of(candidate)
        interval = Interval(low=speedup * 0.99, high=speedup * 1.01, confidence=0.95)
        return Measurement(speedup=speedup, speedup_interval=interval, latency_decided=True)

    monkeypatch.setattr(Evaluator, "evaluate", scripted)
    monkeypatch.setattr(Evaluator, "speed_of", timed)
    monkeypatch.setattr(Evaluator, "race", unraced)
