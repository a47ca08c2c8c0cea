"""A study of 10,000 recorded trials: what it takes to open it, to go on with it, and to propose the next config.

    python benchmarks/many_trials.py                    the default strategies
    python benchmarks/many_trials.py --strategies mse   others
    python benchmarks/many_trials.py --keep FOLDER      studies that are recorded are kept there, and found again

The space is that of an ONNX model of 50 layers, as ONNX Runtime's adapter gives it; what a candidate would measure is
computed. Each study is what its strategy has asked for, and configs drawn at random where it asks for no more. It is
recorded in memory, and its rows are then written to SQLite at once.

In wall time, of a process that has imported everything: ``open`` makes the :class:`History`; ``resume`` goes on from
there to the first proposal, and reads all trials; ``propose`` is the median and the largest of the further ones, each
with its trial begun and discarded, as the search does it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from optuna.samplers import BaseSampler, RandomSampler

sys.path.append(str(Path(__file__).resolve().parents[1]))

from autotune.adapters import get_adapter
from autotune.config import OpConfig, Precision, QuantizationConfig
from autotune.restriction import OpRestriction, SpaceRestriction
from autotune.space import TuningSpace
from autotune.strategies import create_strategy
from autotune.strategy import Exhausted, Problem, Proposal, Strategy
from autotune.testing.synthetic import Synthetic, make_model
from autotune.trial import Trial, TrialState
from autotune.tuning.history import History
from autotune.tuning.selection import incumbent, tried
from autotune.tuning.storage import DATABASE

STRATEGIES = ("auto", "bayesian", "mse", "random")
LAYERS = 50
IDENTITY = {"model": "benchmark"}
ASKED = 200
"""Trials that a strategy is asked for with its own sampler before others are drawn at random: a model-based sampler
takes longer with each one."""


class Computed(Synthetic):
    """Computes what a config would measure, whatever choices its ops have."""

    def loss_of_op(self, op: str, choice: OpConfig) -> float:
        """The op's own loss, more or less by its choice."""
        if choice.precision is Precision.FP32:
            return 0.0
        return self.loss[op] * (0.5 + (len(str(choice)) % 7) / 7)


def space_of_model(folder: Path) -> TuningSpace:
    """The space of a chain of fully connected layers, in static int8 and fp32."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for i in range(LAYERS):
        weights.append(numpy_helper.from_array(rng.normal(size=(16, 16)).astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("MatMul", [f"r{i}", f"w{i}"], [f"m{i}"], name=f"layer_{i:03}"))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [f"r{i + 1}"], name=f"relu_{i:03}"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16]) for name in ("r0", f"r{LAYERS}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    path = folder / "chain.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    adapter = get_adapter("onnxruntime")
    static = OpRestriction(precision=(Precision.INT8, Precision.FP32))
    return SpaceRestriction(op_name={"layer_*": static}).apply(adapter.space(adapter.load(path)))


def problem_of(space: TuningSpace) -> Problem:
    """The problem over that space whose insights and measurements are computed."""
    other = make_model(len(space.ops), harmful=5, total_loss=0.05)
    names = [op.name for op in space.ops]
    return Computed(
        space=space,
        seconds=dict(zip(names, other.seconds.values(), strict=True)),
        loss=dict(zip(names, other.loss.values(), strict=True)),
        noise=1e-4,
    ).problem()


def record(problem: Problem, strategy: Strategy, trials: int) -> History:
    """A study in memory."""
    history = History(None, IDENTITY, multi_objective=strategy.multi_objective)
    known: list[Trial] = []
    evaluate = problem.insights
    assert isinstance(evaluate, Computed)
    rest, exhausted = create_strategy("random"), False
    fingerprints: set[str] = set()
    while len(known) < trials:
        own = not known or not exhausted
        sampler = sampler_of(strategy, problem, len(known)) if len(known) < ASKED else RandomSampler(len(known))
        opened = history.open(sampler)
        proposal: Proposal | Exhausted = Proposal(config=QuantizationConfig())
        if known:
            proposal = (strategy if own else rest).propose(problem, known, opened.draw)
        if isinstance(proposal, Exhausted) or proposal.config.fingerprint in fingerprints:
            exhausted |= isinstance(proposal, Exhausted) or len(known) > ASKED
            history.discard(opened)
            continue
        fingerprints.add(proposal.config.fingerprint)
        history.start(opened, proposal.config, proposal.note)
        measured = evaluate(proposal.config)
        trial = Trial(
            number=opened.number,
            config=proposal.config,
            state=TrialState.COMPLETED,
            measurement=replace(measured, verdict=problem.criterion.verdict(measured.loss or 0.0)),
            duration_s=1.0,
            note=proposal.note,
        )
        history.finish(opened, trial, problem.objective, problem.criterion.target)
        known.append(trial)
    return history


def sampler_of(strategy: Strategy, problem: Problem, number: int) -> BaseSampler:
    """The sampler of the trial that is next."""
    return strategy.sampler(problem, number) or RandomSampler(number)


def write(history: History, workspace: Path) -> None:
    """Write the rows of a study in memory to the database of a workspace."""
    History(workspace, IDENTITY).close()
    database = sqlite3.connect(workspace / DATABASE)
    with contextlib.closing(database), database:
        study = database.execute("SELECT study_id FROM studies").fetchone()[0]
        for trial in history.study.get_trials(deepcopy=False):
            key = trial.number + 1
            database.execute(
                "INSERT INTO trials (trial_id, number, study_id, state, datetime_start, datetime_complete) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (key, trial.number, study, trial.state.name, str(trial.datetime_start), str(trial.datetime_complete)),
            )
            attributes = (("trial_user_attributes", trial.user_attrs), ("trial_system_attributes", trial.system_attrs))
            for table, values in attributes:
                rows = ((key, name, json.dumps(value)) for name, value in values.items())
                database.executemany(f"INSERT INTO {table} (trial_id, key, value_json) VALUES (?, ?, ?)", rows)
            for index, value in enumerate(trial.values or ()):
                database.execute(
                    "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?, ?, ?, 'FINITE')",
                    (key, index, value),
                )
            for name, distribution in trial.distributions.items():
                value = distribution.to_internal_repr(trial.params[name])
                database.execute(
                    "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) "
                    "VALUES (?, ?, ?, ?)",
                    (key, name, value, distribution_json(distribution)),
                )


def distribution_json(distribution: object) -> str:
    """A distribution as Optuna stores it."""
    from optuna.distributions import BaseDistribution, distribution_to_json  # noqa: PLC0415

    assert isinstance(distribution, BaseDistribution)
    return distribution_to_json(distribution)


Clock = Callable[[], float]


def propose(history: History, strategy: Strategy, problem: Problem, clock: Clock = time.perf_counter) -> float:
    """Seconds of one proposal, with all that the search does around it but the trial itself."""
    began = clock()
    history.claims.release_dead()
    trials = history.trials
    tried(trials)
    opened = history.open(sampler_of(strategy, problem, history.begun))
    history.claims.await_turn(opened.number)
    trials = history.trials
    proposal = strategy.propose(problem, trials, opened.draw)
    if isinstance(proposal, Proposal):
        fingerprint = proposal.config.fingerprint
        next((trial for trial in trials if trial.config.fingerprint == fingerprint), None)
    incumbent(history.trials, problem.objective)
    took = clock() - began
    history.discard(opened)
    return took


def measure(workspace: Path, name: str, problem: Problem, proposals: int, clock: Clock) -> str:
    """A row of the table."""
    began = clock()
    history = History(workspace, IDENTITY)
    opened_s = clock() - began
    strategy = create_strategy(name)
    resumed_s = opened_s + propose(history, strategy, problem, clock)
    found = [propose(history, strategy, problem, clock) for _ in range(proposals)]
    count = len(history.trials)
    history.close()
    size = (workspace / DATABASE).stat().st_size / 1e6
    median, worst = statistics.median(found) * 1e3, max(found) * 1e3
    return f"| {name} | {count} | {size:.0f} | {opened_s:.2f} | {resumed_s:.2f} | {median:.0f} | {worst:.0f} |"


@contextlib.contextmanager
def kept_in(folder: Path | None) -> Iterator[Path]:
    """The folder for studies; one of its own where none is given."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def main() -> None:
    """Record and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", nargs="*", default=STRATEGIES)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--proposals", type=int, default=5)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--processor-time", action="store_true", help="in place of wall time, on a busy machine")
    options = parser.parse_args()
    clock = time.process_time if options.processor_time else time.perf_counter
    History(None, IDENTITY)  # what is imported late is imported
    print("| strategy | trials | MB | open s | resume s | propose ms | worst ms |\n|---|---|---|---|---|---|---|")
    with kept_in(options.keep) as folder:
        problem = problem_of(space_of_model(folder))
        for name in options.strategies:
            workspace = folder / f"{name}-{options.trials}"
            if not (workspace / DATABASE).exists():
                write(record(problem, create_strategy(name), options.trials), workspace)
            print(measure(workspace, name, problem, options.proposals, clock), flush=True)


if __name__ == "__main__":
    main()
