"""The time of a proposal: 500 ops, a history of 200 trials, every strategy.

Run from the root of the repository:

    python benchmarks/propose_cost.py

In processor time, for each strategy: the median and the largest of the proposals of a run that goes on, and the
first one after a resume, when the whole history is read again. The time in which the synthetic model computes its
insights, in whose place a real one runs inferences, is subtracted, and so is garbage collection.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

# The problems lie in the tests, which are not installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from autotune.strategies import create_strategy, strategy_names
from autotune.strategy import Insights
from autotune.testing.driver import Run
from autotune.testing.synthetic import make_model

OPTIONS: dict[str, dict[str, int]] = {"exhaustive": {"limit": 10**1000}, "auto": {"patience": 10**6}}
"""``auto`` would stop after a handful of evaluations; here it goes on as long as it finds anything to try."""


class InsightClock:
    """Insights that count the processor time they take.

    Args:
        insights: The insights that are computed.
    """

    def __init__(self, insights: Insights) -> None:
        self._insights = insights
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        """A method of the insights, timed."""
        method = getattr(self._insights, name)

        def timed(*parts: Any) -> Any:
            started = time.process_time()
            try:
                return method(*parts)
            finally:
                self.seconds += time.process_time() - started

        return timed


def main() -> None:
    """Time every strategy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", type=int, default=500)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--strategies", nargs="*", default=strategy_names())
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    model = make_model(args.ops, harmful=args.ops // 10, total_loss=0.2)
    print("| strategy | trials | median ms | worst ms | after resume, ms |\n|---|---|---|---|---|")
    for name in args.strategies:
        options = OPTIONS.get(name, {})
        strategy = create_strategy(name, **options)
        times: list[float] = []
        inner = strategy.propose
        problem = model.problem(target=0.002)
        clock = InsightClock(problem.insights)
        problem = dataclasses.replace(problem, insights=clock)

        def timed(*parts, inner=inner, times=times, clock=clock):  # type: ignore[no-untyped-def]
            # The process's garbage collection goes over the history of all trials, 50 to 80 ms whenever it comes.
            gc.disable()
            started, before = time.process_time(), clock.seconds
            answer = inner(*parts)
            times.append((time.process_time() - started - (clock.seconds - before)) * 1000)
            gc.enable()
            return answer

        strategy.propose = timed  # type: ignore[method-assign]
        run = Run(problem, model).go(strategy, args.trials)
        resumed = create_strategy(name, **options)
        history = run.history
        assert history is not None
        opened = history.open(resumed.sampler(run.problem, 0) or history.study.sampler)
        trials = history.trials
        started, before = time.process_time(), clock.seconds
        resumed.propose(run.problem, trials, opened.draw)
        again = (time.process_time() - started - (clock.seconds - before)) * 1000
        spent = f"{statistics.median(times):.1f} | {max(times):.1f} | {again:.0f}"
        print(f"| {name} | {len(run.evaluated)} | {spent} |", flush=True)


if __name__ == "__main__":
    main()
