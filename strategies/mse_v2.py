"""Fallback with the order corrected after every step, and undone for ops whose fallback did not help."""

from __future__ import annotations

from autotune.bounds import require_least
from autotune.config import FP32, QuantizationConfig
from autotune.errors import StrategyError
from autotune.strategies.planning.moves import can_fall_back, cost_of, error_of, fallback_order
from autotune.strategies.planning.planned import Plan, PlannedStrategy
from autotune.strategy import Problem, Proposal
from autotune.trial import Trial


class MseV2(PlannedStrategy):
    """Returns the op to fp32 that lowers the output error most, ranks again, and re-quantizes ops that did not help.

    After each step the remaining ops are ranked anew by the output error of the config with that op in fp32 as well, on
    a few samples. Once the target is met, every op that fell back before the last step is tried in int8 again, the one
    that raises the error least first, and stays there when the target holds and the model is no slower.

    Costs: one evaluation per step plus one, then at most one for each op that fell back; each ranking takes a pass of a
    few samples for each of ``candidates`` ops. Choose it where quantization errors interact, so that a fixed order
    misleads. Follows the strategy of that name in Intel Neural Compressor 2.x.
    """

    def __init__(self, *, candidates: int = 12) -> None:
        """Choose how thorough a ranking is.

        Args:
            candidates: How many ops, the most sensitive ones by the first ranking, compete for each step.

        Raises:
            StrategyError: ``candidates`` is less than 1.
        """
        super().__init__()
        require_least(1, StrategyError, candidates=candidates)
        self.candidates = candidates

    def plan(self, problem: Problem) -> Plan:
        """Fall back until the target is met, then re-quantize ops whose fallback did not help."""
        config = problem.space.preferred
        remaining = [op for op in fallback_order(problem) if config[op] != FP32]
        fallen: list[str] = []
        trial = yield Proposal(config=config, note="every op as preferred", needs_accuracy=True)
        while not trial.met and remaining:
            error, op = min(
                (error_of(problem, config.replace({op: FP32})), remaining.index(op), op)
                for op in remaining[: self.candidates]
            )[::2]
            remaining.remove(op)
            fallen.append(op)
            config = config.replace({op: FP32})
            note = f"{op} back to fp32 too, output error {error:.3g}"
            trial = yield Proposal(config=config, note=note, needs_accuracy=True)
        if not trial.met:
            return "target missed with every op that can in fp32"
        yield from self._requantize(problem, trial, fallen[:-1])
        return "target met, and no further op can be quantized again"

    def _requantize(self, problem: Problem, best: Trial, fallen: list[str]) -> Plan:
        preferred = problem.space.preferred

        def requantized(op: str) -> QuantizationConfig:
            return best.config.replace({op: preferred[op]})

        assert set(fallen) <= set(can_fall_back(problem.space))
        for op in sorted(fallen, key=lambda op: error_of(problem, requantized(op))):
            trial = yield Proposal(config=requantized(op), note=f"{op} quantized again")
            if trial.met and cost_of(problem, trial) <= cost_of(problem, best):
                best = trial
        return ""
