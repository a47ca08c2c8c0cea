"""The parts of a run that is set up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

from autotune.adapter import (
    ModelT,
)
from autotune.errors import ApplyError
from autotune.evaluation import AnyEvaluator
from autotune.runtimes.fp32 import Fp32Speeds
from autotune.space import TuningSpace
from autotune.strategy import Objective
from autotune.trial import Trial
from autotune.tuning.history import History
from autotune.tuning.side import Side
from autotune.tuning.training import Training

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class Setup(Generic[ModelT]):
    """The objects that a run works with once model and data are read.

    Attributes:
        sides: The model on each runtime, and what its search works on; one where there is one framework.
        baseline: The one of them whose fp32 model is what all else is compared with.
        evaluator: Measures the candidates of all sides.
        history: The trials of all sides.
        fp32: How fast fp32 is on each runtime; None in a run of one framework.
        training: Trains candidates, or makes those that were trained; None for a model that nobody can train.
        home: In a run over several runtimes, the one whose framework the user's model is of.
    """

    sides: Sequence[Side[ModelT]]
    baseline: Side[ModelT]
    evaluator: AnyEvaluator[ModelT]
    history: History
    fp32: Fp32Speeds | None = None
    training: Training[ModelT] | None = None
    home: str | None = None

    @property
    def objective(self) -> Objective:
        """The figure to minimize."""
        return self.baseline.problem.objective

    def side_of(self, trial: Trial) -> Side[ModelT]:
        """The side whose model a trial's is made of."""
        runtime = trial.config.runtime
        return next((side for side in self.sides if side.runtime == runtime), self.baseline)

    def base_of(self, trial: Trial) -> ModelT:
        """The fp32 model that the candidate of a trial is made of.

        Raises:
            ApplyError: It was trained, and its weights are not there any more.
        """
        side = self.side_of(trial)
        if not trial.config.trained:
            return side.model
        if self.training is None:
            raise ApplyError(
                f"Trial {trial.number} was trained, and can be made again of the module alone. Give the run the module "
                "in place of a file"
            )
        model: ModelT = self.training.model(side, trial.config)
        return model


def op_types(space: TuningSpace) -> dict[str, str]:
    """The type of each op that can be quantized, by its name."""
    return {op.name: op.op_type for op in space.ops}
