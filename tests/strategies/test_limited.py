from __future__ import annotations

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotune.strategies.planning import limited
from autotune.strategies.planning.limited import BestTrials, LimitedSampler


class Watched(optuna.samplers.RandomSampler):
    """Remembers the trials that it sees."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.seen: list[int] = []

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial):  # type: ignore[no-untyped-def]
        self.seen = [each.number for each in study._get_trials(deepcopy=False)]
        return super().infer_relative_search_space(study, trial)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "LATEST", 5)
    monkeypatch.setattr(limited, "BEST", 2)


def _trial(value: float, loss: float = -1.0, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    pruned = state is TrialState.PRUNED
    trial = create_trial(
        state=state,
        value=value if state is TrialState.COMPLETE else None,
        params={"x": 0.5},
        distributions={"x": FloatDistribution(0, 1)},
        intermediate_values={0: value} if pruned else {},
    )
    trial.set_constraint("loss", loss)
    return trial


def _study(trials: list[FrozenTrial]) -> Study:
    study = optuna.create_study()
    study.add_trials(trials)
    return study


def _seen(study: Study, best: BestTrials) -> list[int]:
    watched = Watched()
    study.sampler = LimitedSampler(watched, best)
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    study.tell(trial, 9.0)
    return watched.seen[:-1]


def test_the_best_and_the_latest_are_shown() -> None:
    first = [
        _trial(0.1, loss=0.5),
        _trial(3.0),
        _trial(2.0),
        _trial(1.0, state=TrialState.PRUNED),
        _trial(4.0, state=TrialState.FAIL),
        _trial(2.5),
    ]
    study = _study([*first, *(_trial(9.0) for _ in range(4))])
    assert _seen(study, BestTrials()) == [2, 5, 6, 7, 8, 9]


def test_all_are_shown_while_they_are_few() -> None:
    assert _seen(_study([_trial(1.0)] * 4), BestTrials()) == [0, 1, 2, 3]


def test_what_is_shown_depends_on_the_trials_alone() -> None:
    study = _study([_trial(float(10 - index)) for index in range(6)])
    kept = BestTrials()
    for _ in range(8):
        before = _study(study.trials)
        assert _seen(study, kept) == _seen(before, BestTrials())
    other = _study([_trial(float(index)) for index in range(20)])
    assert _seen(other, kept) == _seen(_study(other.trials[:20]), BestTrials())
