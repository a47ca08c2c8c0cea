"""A sampler sees the trials of one runtime, under the names that its strategy draws."""

from __future__ import annotations

from typing import Any, ClassVar

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from autotune.runtimes.sampler import SideSampler

CHOICES: dict[str, BaseDistribution] = {
    "op": CategoricalDistribution(["int8", "fp32"]),
    "other": CategoricalDistribution([1, 2, 3]),
}
OTHERS: dict[str, BaseDistribution] = {"b/op": CategoricalDistribution(["int8", "bf16", "fp32"])}


def drawn(sampler: BaseSampler, mine: int, theirs: int, prefix: str = "a/") -> dict[str, Any]:
    """The value that is drawn after some trials of this runtime, the best with ``other=3``, and some of another one."""
    study = optuna.create_study()
    own = {prefix + name: each for name, each in CHOICES.items()}
    for number in range(max(mine, theirs)):
        if number < mine:
            params = {f"{prefix}op": ("int8", "fp32")[number % 2], f"{prefix}other": 1 + number % 3}
            value = float(number % 3 != 2)
            study.add_trial(optuna.trial.create_trial(params=params, distributions=own, value=value))
        if number < theirs:
            others: dict[str, Any] = {"params": {"b/op": "bf16"}, "distributions": OTHERS}
            study.add_trial(optuna.trial.create_trial(value=-5.0, **others))
    study.sampler = SideSampler(sampler, prefix) if prefix else sampler
    return study.ask(own).params


class Recording(RandomSampler):
    seen: ClassVar[list[tuple[str, ...]]] = []

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        self.seen[:] = [tuple(each.params) for each in finished(study)]
        return super().sample_independent(study, trial, param_name, param_distribution)


def test_trials_of_other_runtimes_are_not_seen() -> None:
    sampler = Recording(seed=0)
    params = drawn(sampler, mine=3, theirs=4)
    assert sampler.seen == [("op", "other")] * 3
    assert set(params) == {"a/op", "a/other"}


def finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(states=(TrialState.COMPLETE,))


class Relative(RandomSampler):
    """Draws all parameters at once, each as the last trial has it."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        return dict(finished(study)[-1].distributions)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,  # noqa: ARG002
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        return {name: finished(study)[-1].params[name] for name in search_space}


class Remembering(RandomSampler):
    """Knows the study of one runtime once it has seen it, as Optuna's own samplers know the parameters of theirs."""

    known: tuple[str, ...] = ()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        names = tuple(finished(study)[-1].params)
        assert self.known in ((), names)
        self.known = names
        return {}


def test_what_a_sampler_remembers_of_one_runtime_is_not_taken_for_another() -> None:
    sampler = Remembering(seed=0)
    drawn(sampler, mine=2, theirs=2, prefix="a/")
    study = optuna.create_study()
    study.add_trial(optuna.trial.create_trial(params={"b/op": "bf16"}, distributions=OTHERS, value=1.0))
    study.sampler = SideSampler(sampler, "b/")
    assert set(study.ask(OTHERS).params) == {"b/op"}


@pytest.mark.parametrize("make", [TPESampler, Relative])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_drawn_is_what_a_run_of_this_runtime_alone_draws(make: Any, seed: int) -> None:
    alone = drawn(make(seed=seed), mine=12, theirs=0, prefix="")
    among = drawn(make(seed=seed), mine=12, theirs=12)
    assert {name.removeprefix("a/"): value for name, value in among.items()} == alone
