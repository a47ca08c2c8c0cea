"""How many evaluations each strategy needs, on problems whose optimum is known.

The problems are the recorded tables of real models and synthetic ones. A result is reached when a config keeps the
target and costs at most 3 % more than the best config that does. An evaluation counts by its share of the data: one
that ends early, as the tuner's own stopping rule has it, counts in part (the tables hold every answer), one that is
ruled out by its latency counts nothing. Synthetic problems have no answers: there every accuracy counts in full. Run
from the root of the repository:

    python benchmarks/search_efficiency.py --seeds 10 --json search_efficiency.json
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import mannwhitneyu

# The problems lie in the tests, which are not installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from autotune.config import FP32, QuantizationConfig
from autotune.strategies import create_strategy
from autotune.strategy import Strategy
from autotune.testing.driver import Run, share_of_data
from autotune.testing.synthetic import Synthetic, make_model
from tests.strategies.table import DATA, Table

BUDGET = 60
NEAR = 1.03
STEPS = 10_000
OTHERS = ("basic", "mse", "bayesian", "random")
STRATEGIES = ("auto", "basic", "mse", "mse_v2", "conservative", "hawq", "hawq_labels", "bayesian", "random")
BY_HESSIAN = {"hawq": False, "hawq_labels": True}
"""Strategies that need a recorded Hessian, and whether its loss is that of labels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A problem and its optimum.

    Attributes:
        model: The evaluator, and the insights.
        target: The largest relative loss.
        optimum: Least cost of a config that keeps it.
        cost: The true cost of a config.
    """

    model: Synthetic | Table
    target: float
    optimum: float
    cost: Callable[[QuantizationConfig], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """One search.

    Attributes:
        strategy: Name of the strategy.
        problem: Name of the problem.
        seed: Seed of the search, and of the synthetic model or the latency noise.
        reached: Evaluations, as shares of the data, until a config within 3 % of the optimum; None: not found.
        tried: The same in candidates, whatever was evaluated of them.
        met: As ``reached``, until the target was kept by something cheaper than fp32.
        evaluations: The same until it ended.
        trials: Candidates until it ended, whatever was evaluated of them.
        ratio: Final cost over the optimum's.
        reason: Why it ended.
    """

    strategy: str
    problem: str
    seed: int
    reached: float | None
    tried: int | None
    met: float | None
    evaluations: float
    trials: int
    ratio: float
    reason: str


def synthetic_case(model: Synthetic, target: float = 0.01) -> Case:
    """A synthetic model of few ops; the optimum comes from all configs with the preferred and the best algorithms."""

    def cost(config: QuantizationConfig) -> float:
        return model.seconds_of(config) / model.baseline_s

    def candidates() -> Iterator[float]:
        for choices in itertools.product((False, True), repeat=len(model.space.ops)):
            names = [op.name for op in model.space.ops]
            ops = {
                op.name: FP32
                if fp32
                else min(
                    (c for c in op.configs() if c.activation == op.preferred.activation and c != FP32),
                    key=lambda c, name=op.name: model.loss_of_op(name, c),  # type: ignore[misc]
                )
                for op, fp32 in zip(model.space.ops, choices, strict=True)
            }
            assert set(ops) == set(names)
            config = QuantizationConfig(ops=ops, recipe=model.space.recipe.preferred)
            if model(config).loss is not None and (model(config).loss or 0.0) <= target:
                yield cost(config)

    return Case(model=model, target=target, optimum=min([1.0, *candidates()]), cost=cost)


def many_case(seed: int, target: float = 0.01) -> Case:
    """A synthetic chain of 60 ops of which a dozen carry the loss; the optimum is a knapsack's."""
    model = make_model(60, seed=seed, rich=False, total_loss=0.06, harmful=12)
    ops = [op.name for op in model.space.ops]
    # The knapsack problem by dynamic programming; losses are rounded up to ten-thousandths of the target.
    best = np.zeros(STEPS + 1)
    for op in ops:
        fp32_s, int8_s = model.seconds[op]
        weight = int(np.ceil(model.loss_of_op(op, model.space.preferred[op]) / target * STEPS))
        if weight <= STEPS:
            best[weight:] = np.maximum(best[weight:], best[: STEPS + 1 - weight] + fp32_s - int8_s)
    optimum = 1 - float(best[-1]) / model.baseline_s
    return Case(
        model=model, target=target, optimum=optimum, cost=lambda config: model.seconds_of(config) / model.baseline_s
    )


def cases(seed: int) -> dict[str, Callable[[], Case]]:
    """All problems of one seed, by name."""
    base = make_model(10, seed=seed, rich=False)
    hopeless = make_model(10, seed=seed, rich=False, total_loss=5.0, harmful=10)
    return {
        **{
            f"{path.stem} {target:.1%}": functools.partial(table_case, path.stem, seed, target)
            for path in sorted(DATA.glob("*.json"))
            for target in (0.01, 0.005, 0.002)
        },
        "separable": lambda: synthetic_case(base),
        "interacting": lambda: synthetic_case(dataclasses.replace(base, interaction=0.6, crossing_s=1e-4)),
        "noisy": lambda: synthetic_case(dataclasses.replace(base, noise=1e-3)),
        "many ops": lambda: many_case(seed),
        "plateau": lambda: synthetic_case(dataclasses.replace(base, plateau=4e-3)),
        "hopeless": lambda: synthetic_case(hopeless),
    }


def table_case(name: str, seed: int, target: float) -> Case:
    """A recorded model, timed anew and with its samples in an order of their own."""
    table = Table(name, seed)
    return Case(model=table, target=target, optimum=table.optimum(target), cost=table.true_cost)


def search(name: str, problem: str, case: Case, seed: int) -> Outcome:
    """Run one strategy once."""
    run = Run(case.model.problem(seed, target=case.target), case.model).go(made(name), BUDGET)
    spent = list(itertools.accumulate(share_of_data(trial) for trial in run.evaluated))
    met = [(i, case.cost(t.config)) for i, t in zip(spent, run.evaluated, strict=True) if t.met]
    near = [i for i, cost in met if cost <= case.optimum * NEAR]
    tried = [i for i, t in enumerate(run.evaluated, start=1) if t.met and case.cost(t.config) <= case.optimum * NEAR]
    faster = [i for i, cost in met if cost < 1]
    return Outcome(
        strategy=name,
        problem=problem,
        seed=seed,
        # Where fp32 is the optimum there is nothing to find.
        reached=0 if case.optimum * NEAR >= 1 else min(near, default=None),
        tried=0 if case.optimum * NEAR >= 1 else min(tried, default=None),
        met=min(faster, default=None),
        evaluations=spent[-1] if spent else 0.0,
        trials=len(run.evaluated),
        ratio=case.cost(run.best.config) / case.optimum,
        reason=run.reason or "budget",
    )


def made(name: str) -> Strategy:
    """A strategy as the benchmark names it."""
    return create_strategy("hawq", loss="labels") if name == "hawq_labels" else create_strategy(name)


def is_possible(name: str, model: Synthetic | Table) -> bool:
    """Whether a strategy has the insights that it needs; a synthetic model has no labels to tell losses apart by."""
    if name not in BY_HESSIAN:
        return True
    labelled = BY_HESSIAN[name]
    if isinstance(model, Synthetic):
        return not labelled
    return model.hessian_sensitivity(labelled=labelled) is not None


def row(outcomes: list[Outcome]) -> str:
    """A line of the table for one strategy on one problem."""
    reached = [o.reached for o in outcomes if o.reached is not None]
    median = np.median([BUDGET + 1 if o.reached is None else o.reached for o in outcomes])
    met = np.median([BUDGET + 1 if o.met is None else o.met for o in outcomes])
    ratio = statistics.median(o.ratio for o in outcomes)
    worst = max(o.ratio for o in outcomes)
    spent = statistics.median(o.evaluations for o in outcomes)

    trials = statistics.median(o.trials for o in outcomes)
    return (
        f"| {outcomes[0].problem} | {outcomes[0].strategy} | {shown(float(met))} | {shown(float(median))} "
        f"| {len(reached)}/{len(outcomes)} | {spent:.1f} | {trials:g} | {ratio:.3f} | {worst:.3f} |"
    )


def shown(value: float) -> str:
    """Evaluations to a tenth; beyond the budget is not found."""
    return f"> {BUDGET}" if value > BUDGET else f"{value:.1f}"


def significance(outcomes: list[Outcome], problem: str) -> str:
    """Whether ``bayesian`` needs less than ``random``, in candidates and in evaluations.

    One that did not get there counts as longest.
    """
    cells = []
    for field in ("tried", "reached"):
        ours, theirs = (
            [
                BUDGET + 1 if getattr(o, field) is None else getattr(o, field)
                for o in outcomes
                if o.strategy == name and o.problem == problem
            ]
            for name in ("bayesian", "random")
        )
        p = mannwhitneyu(ours, theirs, alternative="less").pvalue
        cells.append(f"{shown(float(np.median(ours)))} | {shown(float(np.median(theirs)))} | {p:.2g}")
    return f"| {problem} | {' | '.join(cells)} |"


def median_of(outcomes: list[Outcome], problem: str, strategy: str) -> float:
    """Evaluations until within 3 % of the optimum; one that did not get there counts as longest."""
    some = [o for o in outcomes if o.problem == problem and o.strategy == strategy]
    return float(np.median([BUDGET + 1 if o.reached is None else o.reached for o in some]))


def comparison(outcomes: list[Outcome], problem: str) -> str:
    """How many evaluations ``auto`` needs, and the best of those it has to beat, until within 3 % of the optimum."""
    medians = {name: median_of(outcomes, problem, name) for name in ("auto", *OTHERS)}
    other = min(OTHERS, key=lambda name: medians[name])
    own = [o for o in outcomes if o.problem == problem and o.strategy == "auto"]
    near = sum(o.reached is not None and o.reached <= 10 for o in own)
    # Where fp32 is the optimum, nothing has to be evaluated.
    share = f"{medians['auto'] / medians[other]:.2f}" if medians[other] else "-"
    return f"| {problem} | {shown(medians['auto'])} | {near}/{len(own)} | {other} | {shown(medians[other])} | {share} |"


def over_all(outcomes: list[Outcome], problems: Sequence[str], name: str) -> str:
    """Evaluations that one strategy needs on all problems together, and the share of them that ``auto`` needs."""
    own, auto = (sum(median_of(outcomes, problem, each) for problem in problems) for each in (name, "auto"))
    missed = sum(median_of(outcomes, problem, name) > BUDGET for problem in problems)
    return f"| {name} | {own:.1f} | {missed}/{len(problems)} | {auto / own:.2f} |"


def print_tables(outcomes: list[Outcome], strategies: Sequence[str]) -> None:
    """All strategies on all problems; ``bayesian`` against ``random``; ``auto`` against the best of the others."""
    problems = list(dict.fromkeys(o.problem for o in outcomes))
    print("| problem | strategy | target met | within 3 % | found | spent | trials | cost / optimum | worst |")
    print("|---|---|---|---|---|---|---|---|---|")
    for problem in problems:
        for name in strategies:
            if some := [o for o in outcomes if o.problem == problem and o.strategy == name]:
                print(row(some))
    if {"bayesian", "random"} <= set(strategies):
        print("\n| problem | bayesian, candidates | random | p | bayesian, evaluations | random | p |")
        print("|---|---|---|---|---|---|---|")
        for problem in problems:
            print(significance(outcomes, problem))
    if {"auto", *OTHERS} <= set(strategies):
        print("\n| problem | auto | in at most 10 | best other | its evaluations | share |\n|---|---|---|---|---|---|")
        for problem in problems:
            print(comparison(outcomes, problem))
    if "auto" in strategies:
        print("\n| strategy | evaluations on all problems | not found | share that auto needs |\n|---|---|---|---|")
        shared = [problem for problem in problems if "hopeless" not in problem]
        for name in strategies:
            if name not in BY_HESSIAN:
                print(over_all(outcomes, shared, name))


def main() -> None:
    """Run all strategies on all problems and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--strategies", nargs="*", default=STRATEGIES)
    parser.add_argument("--problems", nargs="*", default=[""], help="only problems whose names contain one of these")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    outcomes: list[Outcome] = []
    started = time.monotonic()
    for seed in range(args.seeds):
        for problem, make in cases(seed).items():
            if not any(part in problem for part in args.problems):
                continue
            case = make()
            for name in args.strategies:
                if is_possible(name, case.model):
                    outcomes.append(search(name, problem, case, seed))
    print_tables(outcomes, args.strategies)
    print(f"\n{len(outcomes)} searches, {time.monotonic() - started:.0f} s")
    if args.json:
        args.json.write_text(json.dumps([dataclasses.asdict(o) for o in outcomes], indent=1) + "\n")


if __name__ == "__main__":
    main()
