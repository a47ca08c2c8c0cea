"""The front that ``pareto`` finds, against that of Optuna's ``NSGAIISampler`` on a parameter per field of every op.

Compared by hypervolume: the share of the box between the best and the worst recorded figures (latency, loss, size) that
the evaluated configs dominate. Run from the root of the repository:

    python benchmarks/front_quality.py --seeds 10
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from optuna.samplers import NSGAIISampler
from scipy.stats import mannwhitneyu

# The problems lie in the tests, which are not installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from autotune.strategies import create_strategy
from autotune.strategies.optuna_sampler import OptunaSampler
from autotune.strategy import Draw, Exhausted, Problem, Proposal, Strategy
from autotune.testing.driver import Run
from autotune.testing.synthetic import Synthetic, make_model
from autotune.trial import Trial
from tests.strategies.table import DATA, Table

POPULATION = 20
BUDGETS = (60, 200)


class WrappedSampler(OptunaSampler):
    """Optuna's own NSGA-II with three objectives."""

    multi_objective: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__(NSGAIISampler(population_size=POPULATION, seed=0))

    def propose(self, problem: Problem, trials: list[Trial], draw: Draw) -> Proposal | Exhausted:  # type: ignore[override]
        """The next config as the sampler draws it."""
        proposal = super().propose(problem, trials, draw)
        if isinstance(proposal, Exhausted):
            return proposal
        return Proposal(config=proposal.config, note=proposal.note, needs_accuracy=True)


def hypervolume(points: npt.NDArray[np.float64]) -> float:
    """Volume of the unit cube that points of shape (n, 3), less is better, dominate: slices along the last axis."""
    points = points[(points < 1).all(axis=1)].clip(0)
    points = points[np.argsort(points[:, 2])]
    depths = np.append(points[:, 2], 1.0)
    volume = 0.0
    for i in range(len(points)):
        plane = points[: i + 1, :2]
        plane = plane[np.argsort(plane[:, 0])]
        lowest = np.minimum.accumulate(plane[:, 1])
        widths = np.diff(np.append(plane[:, 0], 1.0))
        volume += float((widths * (1 - lowest)).sum()) * (depths[i + 1] - depths[i])
    return volume


def figures(run: Run, count: int) -> npt.NDArray[np.float64]:
    """Latency, loss and size of the first candidates, the fp32 model among them, (n, 3)."""
    assert run.history is not None
    measured = [t.measurement for t in (run.history.trials[0], *run.evaluated[:count]) if t.measurement is not None]
    return np.array([[1 / (m.speedup or 1.0), m.loss, m.size_bytes] for m in measured], dtype=float)


def models(seed: int) -> dict[str, Table | Synthetic]:
    """The recorded tables, with the latency noise of this seed, and a synthetic chain."""
    tables: dict[str, Table | Synthetic] = {path.stem: Table(path.stem, seed) for path in sorted(DATA.glob("*.json"))}
    return {**tables, "many ops": make_model(60, seed=seed, total_loss=0.06, harmful=12)}


def main() -> None:
    """Search with both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    makers: dict[str, Callable[[], Strategy]] = {
        "pareto": lambda: create_strategy("pareto", population=POPULATION),
        "NSGAIISampler": WrappedSampler,
    }
    found: dict[str, dict[str, list[npt.NDArray[np.float64]]]] = {}
    for seed in range(args.seeds):
        for problem, model in models(seed).items():
            for name, make in makers.items():
                run = Run(model.problem(seed, target=0.01), model).go(make(), max(BUDGETS))
                found.setdefault(problem, {}).setdefault(name, []).append(figures(run, max(BUDGETS)))
    print("| problem | evaluations | pareto | NSGAIISampler | p (pareto larger) |\n|---|---|---|---|---|")
    for problem, runs in found.items():
        every = np.concatenate([points for each in runs.values() for points in each])
        low, high = every.min(axis=0), every.max(axis=0)
        for budget in BUDGETS:
            volumes = {
                name: [hypervolume((points[: budget + 1] - low) / (high - low)) for points in each]
                for name, each in runs.items()
            }
            ours, theirs = volumes["pareto"], volumes["NSGAIISampler"]
            p = mannwhitneyu(ours, theirs, alternative="greater").pvalue
            print(f"| {problem} | {budget} | {np.median(ours):.3f} | {np.median(theirs):.3f} | {p:.2g} |", flush=True)


if __name__ == "__main__":
    main()
