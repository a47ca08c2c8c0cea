"""Strategy that goes from fp32 towards int8, one op type at a time."""

from __future__ import annotations

from autotune.config import Precision
from autotune.strategies.planning.moves import cost_of, most_precise
from autotune.strategies.planning.planned import Plan, PlannedStrategy
from autotune.strategy import Problem, Proposal
from autotune.trial import Trial


class Conservative(PlannedStrategy):
    """Starts from fp32 and quantizes one op type after the other for as long as the target holds.

    The type with the most time to save comes first (with the most ops where there is no profile). A type that breaks
    the target, or makes the model slower, is tried again with the less sensitive half of its ops, then a quarter, until
    something stays or nothing is left. Whatever stays keeps the target, so that the search can be stopped at any time.

    Costs: from one evaluation per op type up to log2 of its number of ops. Choose it where a model of nearly untouched
    accuracy is wanted soon, or where plain int8 is hopeless. Follows the strategy of that name in Intel Neural
    Compressor 2.x, which quantizes op by op within a type.
    """

    def plan(self, problem: Problem) -> Plan:
        """Type by type, halving where a type as a whole is too much."""
        best: Trial | None = None
        config = most_precise(problem.space)
        for op_type, ops in _types(problem):
            count = len(ops)
            while count:
                choices = {op: problem.space.by_name[op].preferred for op in ops[:count]}
                candidate = config.replace(choices)
                trial = yield Proposal(config=candidate, note=f"{count} of {len(ops)} {op_type} in int8")
                if trial.met and (best is None or cost_of(problem, trial) < cost_of(problem, best)):
                    best, config = trial, candidate
                    break
                count //= 2
        if best is None:
            return "target missed, or nothing faster than fp32, with every op type on its own"
        return "target met, and every op type was tried"


def _types(problem: Problem) -> list[tuple[str, list[str]]]:
    """Op types with the ops that can be in int8, the least sensitive first; the most rewarding type first."""
    sensitivity, latency = problem.insights.sensitivity(), problem.insights.op_latency()
    types: dict[str, list[str]] = {}
    for op in problem.space.tunable:
        if op.preferred.precision is not Precision.FP32:
            types.setdefault(op.op_type, []).append(op.name)

    def saved_s(op: str) -> float:
        seconds = latency.get(op, {})
        quantized = problem.space.by_name[op].preferred.precision
        return seconds.get(Precision.FP32, 0.0) - seconds.get(quantized, 0.0)

    for ops in types.values():
        ops.sort(key=lambda op: sensitivity.get(op, 0.0))
    return sorted(types.items(), key=lambda item: (-sum(map(saved_s, item[1])), -len(item[1]), item[0]))
