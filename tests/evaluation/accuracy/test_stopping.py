from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autotune.evaluation.accuracy.stopping import ERROR_RATE, Bet, Outcome, Population, Stop, StoppingRule

Array = np.ndarray[Any, Any]


class Simulation:
    """Right and wrong answers of a baseline, and candidates that flip mostly where its margin is small."""

    def __init__(self, samples: int = 1000, accuracy: float = 0.8, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.right = generator.random(samples) < accuracy
        self.margin = generator.exponential(1.0, samples)

    def population(self, **changes: Any) -> Population:
        count = len(self.right)
        options: dict[str, Any] = {
            "bounds": (0.0, 1.0),
            "higher_is_better": True,
            "difficulty": -self.margin,
            "any_order": True,
            **changes,
        }
        return Population.make(self.right.astype(float), list(np.arange(count).reshape(-1, 1)), **options)

    def losses(self, loss: float, gain: float, seed: int, steep: float = 3.0) -> Array:
        """1 where a right answer is lost, -1 where a wrong one is gained."""
        generator = np.random.default_rng(seed)
        chance = np.where(self.right, loss, gain) * np.exp(-steep * self.margin) * (1 + steep)
        flips = generator.random(len(chance)) < chance
        return np.where(flips, np.where(self.right, 1.0, -1.0), 0.0)

    def run(
        self, losses: Array, limit: float, seed: int = 0, chunk: int = 10, **options: Any
    ) -> tuple[Stop | None, int]:
        rule = StoppingRule(options.pop("population", None) or self.population(), limit=limit, seed=seed, **options)
        for start in range(0, len(losses), chunk):
            stop = rule.update(list(losses[rule.order[start : start + chunk]]))
            if stop is not None:
                return stop, min(len(losses), start + chunk)
        return None, len(losses)


def verdict(losses: Array, limit: float) -> Outcome:
    return Outcome.MISSED if losses.sum() > limit else Outcome.MET


@pytest.mark.parametrize("accept", [True, False])
@pytest.mark.parametrize("difficulty", [True, False])
def test_the_verdict_is_that_of_a_full_evaluation(accept: bool, difficulty: bool) -> None:
    """200 candidates from clearly met to clearly missed; with 1 % of errors 7 or more have p < 0.5 %."""
    simulation = Simulation()
    population = simulation.population() if difficulty else simulation.population(difficulty=None)
    wrong, seen = 0, 0
    for seed in range(200):
        losses = simulation.losses(loss=0.002 * (seed % 40), gain=0.03, seed=seed)
        stop, samples = simulation.run(losses, limit=8.0, seed=seed, accept=accept, population=population)
        seen += samples
        wrong += stop is not None and stop.outcome is not verdict(losses, 8.0)
    assert wrong <= 200 * ERROR_RATE + 4
    assert seen < (150 if accept else 190) * 1000


def test_certainty_never_errs_and_comes_early_in_the_right_order() -> None:
    simulation = Simulation()
    losses = simulation.losses(loss=0.1, gain=0.02, seed=3)
    assert losses.sum() > 9
    ordered, seen = simulation.run(losses, limit=8.0, bets=False, accept=False)
    assert ordered == Stop(outcome=Outcome.MISSED, certain=True)
    loader, seen_in_order = simulation.run(losses, limit=8.0, population=simulation.population(any_order=False))
    assert loader == Stop(outcome=Outcome.MISSED, certain=True)
    assert seen < 500 < seen_in_order


def test_a_candidate_far_off_is_dropped_in_the_first_part() -> None:
    simulation = Simulation()
    losses = np.where(simulation.right, 1.0, 0.0)
    stop, seen = simulation.run(losses, limit=8.0)
    assert stop is not None
    assert stop.outcome is Outcome.MISSED
    assert seen <= 40


def test_every_unit_is_evaluated_once() -> None:
    simulation = Simulation()
    for population in (simulation.population(), simulation.population(difficulty=None)):
        rule = StoppingRule(population, limit=8.0, seed=5)
        assert sorted(rule.order) == list(range(1000))
        assert list(rule.order) == list(StoppingRule(population, limit=8.0, seed=5).order)
    assert list(StoppingRule(simulation.population(any_order=False), limit=8.0, seed=5).order) == list(range(1000))


def test_nothing_can_be_gained_where_the_baseline_is_perfect() -> None:
    population = Population.make(
        np.ones(100),
        [np.arange(i, i + 10) for i in range(0, 100, 10)],
        bounds=(-1.0, 1.0),
        higher_is_better=True,
        difficulty=None,
        any_order=False,
    )
    rule = StoppingRule(population, limit=1.0, seed=0)
    assert rule.update([0.9]) is None
    assert rule.update([0.2]) == Stop(outcome=Outcome.MISSED, certain=True)


def test_errors_are_bounded_on_one_side() -> None:
    """A squared error can fall by no more than the baseline's own, and rise by any amount."""
    errors = np.full(100, 0.1)
    population = Population.make(
        errors,
        list(np.arange(100).reshape(-1, 1)),
        bounds=(0.0, np.inf),
        higher_is_better=False,
        difficulty=None,
        any_order=True,
    )
    assert population.gains.tolist() == errors.tolist()
    rule = StoppingRule(population, limit=0.1, seed=0)
    stop, count = None, 0
    while stop is None:
        stop = rule.update([1.0])
        count += 1
    assert stop.outcome is Outcome.MISSED
    assert count < 15


def test_a_bet_rejects_a_true_hypothesis_no_more_often_than_allowed() -> None:
    """1,000 random orders of a population whose sum is exactly the limit; 5 % allowed, 7.5 % has p < 0.1 %."""
    generator = np.random.default_rng(0)
    members = np.repeat([1.0, 0.0, -1.0], [30, 160, 10])
    rejected = 0
    for _ in range(1000):
        bet = Bet(count=200, limit=20.0, lowest=-1.0)
        for value in generator.permutation(members)[:180]:
            bet.draw([value])
            if bet.rejects(0.05):
                rejected += 1
                break
    assert rejected <= 75


def test_estimates_are_right_on_average() -> None:
    """The loss of a candidate that is dropped early is estimated without a lean to the samples that were picked."""
    simulation = Simulation(samples=2000)
    losses = simulation.losses(loss=0.12, gain=0.06, seed=1, steep=1.0)
    estimates, lengths = [], [80, 160, 400, 900]
    for seed in range(60):
        rule = StoppingRule(simulation.population(), limit=1e9, seed=seed, accept=False)
        row, before = [], 0
        for length in lengths:
            rule.update(list(losses[rule.order[before:length]]))
            before = length
            row.append(rule.estimate())
        estimates.append(row)
    sums = np.array(estimates)[:, :, 0]
    errors = sums - losses.sum()
    standard = errors.std(axis=0) / np.sqrt(60)
    assert (np.abs(errors.mean(axis=0)) < 4 * standard + 1).all()
    claimed = np.sqrt(np.array(estimates)[:, :, 1]).mean(axis=0)
    assert (claimed > 0.7 * errors.std(axis=0)).all()
    rule.update(list(losses[rule.order[900:]]))
    assert rule.estimate()[0] == pytest.approx(losses.sum())


def halves(count: int = 1000) -> Population:
    """As many wrong as right answers in turn, of which nothing else is known: one random part."""
    return Population.make(
        np.tile([1.0, 0.0], count // 2),
        list(np.arange(count).reshape(-1, 1)),
        bounds=(0.0, 1.0),
        higher_is_better=True,
        difficulty=None,
        any_order=True,
    )


def draws_until(level: float, *, limit: float, value: float, count: int = 1000) -> int:
    """How many equal draws turn a stake of 1 into ``1 / level``, by the definition of the four bets."""
    stakes = np.ones(4)
    for drawn in range(1, count):
        mean = limit / (count - drawn + 1)
        stakes *= 1 + np.array([0.1, 0.2, 0.4, 0.8]) * (value - mean) / (mean + 1)
        limit -= value
        if stakes.mean() >= 1 / level:
            return drawn
    raise AssertionError("never")


def test_an_evaluation_ends_when_the_stake_has_grown_by_what_the_error_rate_asks_for() -> None:
    """Half of 1 % for each of two verdicts: a stake of 200. At eight times the level it would be 25, sooner reached."""
    missed = StoppingRule(halves(), limit=100.0, seed=0)
    stops = [missed.update([1.0]) for _ in range(40)]
    first = next(number for number, stop in enumerate(stops, 1) if stop is not None)
    assert stops[first - 1] == Stop(outcome=Outcome.MISSED, certain=False)
    assert first == draws_until(ERROR_RATE / 2, limit=100.0, value=1.0)
    assert first > draws_until(ERROR_RATE * 4, limit=100.0, value=1.0)

    met = StoppingRule(halves(), limit=100.0, seed=0)
    stops = [met.update([0.0]) for _ in range(400)]
    first = next(number for number, stop in enumerate(stops, 1) if stop is not None)
    assert stops[first - 1] == Stop(outcome=Outcome.MET, certain=False)
    assert first == draws_until(ERROR_RATE / 2, limit=-100.0, value=0.0)


def test_nothing_is_accepted_early_where_that_is_not_asked_for() -> None:
    """Neither by a bet nor by arithmetic, however clearly the target is kept."""
    for bets in (True, False):
        rule = StoppingRule(halves(), limit=100.0, seed=0, accept=False, bets=bets)
        assert [rule.update([0.0]) for _ in range(1000)] == [None] * 1000


def test_what_can_still_be_gained_counts_and_what_can_still_be_lost() -> None:
    """Seven right answers, then three wrong ones; one may be lost, and not two."""

    def rule() -> StoppingRule:
        population = Population.make(
            np.repeat([1.0, 0.0], [7, 3]),
            list(np.arange(10).reshape(-1, 1)),
            bounds=(0.0, 1.0),
            higher_is_better=True,
            difficulty=None,
            any_order=False,
        )
        return StoppingRule(population, limit=1.5, seed=0)

    worse = rule()
    # Four lost and three to be gained end at one, which is kept; five cannot be made good.
    assert [worse.update([1.0]) for _ in range(5)] == [*[None] * 4, Stop(outcome=Outcome.MISSED, certain=True)]
    better = rule()
    # Two may still be lost until the sixth is seen, and then one.
    assert [better.update([0.0]) for _ in range(6)] == [*[None] * 5, Stop(outcome=Outcome.MET, certain=True)]


def test_an_estimate_stays_within_what_can_still_be_lost_and_gained() -> None:
    """Ninety wrong answers and ten right ones, of which nothing else is known."""
    scores = np.repeat([0.0, 1.0], [90, 10])
    population = Population.make(
        scores,
        list(np.arange(100).reshape(-1, 1)),
        bounds=(0.0, 1.0),
        higher_is_better=True,
        difficulty=None,
        any_order=True,
    )
    lost = StoppingRule(population, limit=1e9, seed=0, accept=False)
    right = int((scores[lost.order[:30]] == 1).sum())
    assert 0 < right < 10
    lost.update(list(scores[lost.order[:30]]))
    assert lost.estimate()[0] == pytest.approx(min(10.0, 100 * right / 30))
    all_lost = StoppingRule(population, limit=1e9, seed=0, accept=False)
    all_lost.update([1.0] * 5)  # more than the few right answers among them could: the sum of all is bounded still
    left = 10 - int((scores[all_lost.order[:5]] == 1).sum())
    assert all_lost.estimate()[0] == pytest.approx(5 + left)
    gained = StoppingRule(halves(10), limit=1e9, seed=0, accept=False)
    wrong = int((np.tile([1.0, 0.0], 5)[gained.order[:2]] == 0).sum())
    gained.update([-1.0, -1.0])
    assert gained.estimate()[0] == pytest.approx(-2 - (5 - wrong))


def test_a_bet_that_cannot_be_placed_says_nothing() -> None:
    bet = Bet(count=4, limit=-4.0, lowest=-1.0)
    bet.draw([1.0, 1.0, 1.0])
    assert not bet.rejects(0.999)
    assert np.isfinite(bet._logs).all()


def test_where_no_loss_was_seen_among_the_draws_there_may_be_one_all_the_same() -> None:
    """The variance counts one more loss than was drawn, as large as the largest that was seen anywhere."""
    rule = StoppingRule(halves(100), limit=1e9, seed=0, accept=False)
    rule.update([1.0, 0.0, 0.0, 0.0])
    total, variance, squares = rule.estimate()
    assert total == pytest.approx(25.0)
    assert squares == pytest.approx(25.0)
    assert variance == pytest.approx(100**2 * 0.96 * ((1 + 1) / 5) / 4)

    simulation = Simulation()
    ranked = StoppingRule(simulation.population(), limit=1e9, seed=0, accept=False)
    ranked.update([0.0] * 80)  # the first random part: nothing lost
    ranked.update([1.0] * 20)  # the most difficult of the rest
    total, variance, _ = ranked.estimate()
    assert total == pytest.approx(20.0)
    assert variance > 0
