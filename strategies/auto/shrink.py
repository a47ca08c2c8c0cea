"""The smallest model that keeps the target: how ``auto`` searches where size is the objective and weights come in bits.

Every op has a few ways to be stored, from 4 bits to fp32, and a model's size is the sum over them: nothing needs to be
predicted of it. The ops are put in the order of the output error that each causes alone when it is stored smallest.
Along that order they move up, first all to the next larger way and then on, which makes a path of configs from the
smallest to fp32, ever larger and, but for chance, ever more accurate. It is bisected: 1 evaluation where the smallest
config keeps the target, and 1 + log2(ways x ops) otherwise. Bisection along a sensitivity order: arXiv 2302.01382.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

from autotune.config import FP32, WEIGHT_ONLY, OpConfig, Precision, QuantizationConfig
from autotune.space import OpSpace, TuningSpace
from autotune.strategies.planning.moves import error_of
from autotune.strategy import Problem, Proposal
from autotune.trial import Trial


def stores_in_bits(space: TuningSpace) -> bool:
    """Whether any op can be quantized in how its weights are stored alone."""
    return any(op.space_of(precision) is not None for op in space.ops for precision in WEIGHT_ONLY)


def shrink(problem: Problem) -> Generator[Proposal, Trial, str]:
    """Propose configs from the smallest on, until the smallest that keeps the target is found; the reason to end."""
    ways = {op.name: _ways(op) for op in problem.space.ops if FP32 in op}
    ways = {op: found for op, found in ways.items() if len(found) > 1}
    fixed = {op.name: op.preferred for op in problem.space.ops if FP32 not in op}
    recipe = problem.space.recipe.preferred

    def config(choices: Mapping[str, OpConfig]) -> QuantizationConfig:
        return QuantizationConfig(ops={**fixed, **choices}, recipe=recipe)

    smallest = {op: found[0] for op, found in ways.items()}
    if not smallest:
        return "no op of this model can be stored in fewer bits"
    trial = yield Proposal(config=config(smallest), note=_note(smallest), needs_accuracy=True)
    if trial.met:
        return "target met by the smallest config"
    errors = {
        op: error_of(problem, QuantizationConfig(ops={op: choice}, recipe=problem.space.recipe.quick(recipe)))
        for op, choice in smallest.items()
    }
    path = _path(ways, sorted(ways, key=lambda op: -errors[op]))
    low, high = 0, len(path) - 1  # the last one is fp32, as far as it goes
    while high - low > 1:
        at = (low + high) // 2
        trial = yield Proposal(config=config(path[at]), note=_note(path[at]), needs_accuracy=True)
        low, high = (low, at) if trial.met else (at, high)
    if high == len(path) - 1:
        return "target missed by every config that is smaller than fp32"
    return "target met, and the next smaller config misses it"


def _ways(op: OpSpace) -> list[OpConfig]:
    """How an op can be stored, the smallest first: one way for each number of bits, weight-only ones before others."""
    by_bits = {32: FP32}
    for config in (within.preferred for within in op.precisions):
        bits = _bits(config)
        if bits not in by_bits or config.precision in WEIGHT_ONLY:
            by_bits[bits] = config
    return [by_bits[bits] for bits in sorted(by_bits)]


def _bits(config: OpConfig) -> int:
    """Bits of one stored weight; 32 also for an op that has none to store."""
    if config.precision in WEIGHT_ONLY:
        return 4 if config.precision is Precision.INT4_WEIGHT else 8
    return 8 if config.weight is not None else 32


def _path(ways: Mapping[str, list[OpConfig]], order: Sequence[str]) -> list[dict[str, OpConfig]]:
    current = {op: found[0] for op, found in ways.items()}
    path = [dict(current)]
    for step in range(1, max((len(found) for found in ways.values()), default=1)):
        for op in order:
            if step < len(ways[op]):
                current[op] = ways[op][step]
                path.append(dict(current))
    return path


def _note(choices: Mapping[str, OpConfig]) -> str:
    counts: dict[str, int] = {}
    for choice in choices.values():
        counts[choice.precision] = counts.get(choice.precision, 0) + 1
    return "stored as " + ", ".join(f"{count} x {precision}" for precision, count in counts.items())
