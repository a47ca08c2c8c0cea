"""The model as ``auto`` knows it: what was tried, what is predicted, and which choice promises most."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autotune.config import QuantizationConfig
from autotune.strategies.auto.cost_model import Costs, timing_noise
from autotune.strategies.auto.loss_law import LossLaw, is_perfect
from autotune.strategies.auto.loss_model import Losses, Template, is_telling
from autotune.strategies.auto.prediction import Vector
from autotune.strategies.auto.program import Flags, Program
from autotune.strategies.auto.reach import within_reach
from autotune.strategies.auto.steps import Step, config_of, fastest_config, in_order, single_steps
from autotune.strategies.planning.moves import cost_of
from autotune.strategy import Problem
from autotune.trial import Trial

_NOTICEABLE = 0.01
"""A predicted gain below this share is not worth an evaluation: paired latency medians hardly resolve it."""

_WORTHWHILE = 0.0025
"""Nor is one that is larger, where it times the probability that the target is kept is less than this share."""

_CAUTION = 0.5
"""How much the exponent of that probability rises with every candidate that did not win."""

_BUDGETS = (0.5, 0.75, 0.9, 1.0, 1.15, 1.4)
"""Shares of the target for which the program is solved; above 1 since losses may be overrated."""

_COMPLETE = 12
"""Most steps with which every choice is looked at."""

_FLIPS = 64
"""Choices beyond that number of steps, each a step away from the best; to predict 500 takes ten times as long."""

_CHECKS = 6
"""Output errors are looked at until one agrees with its prediction, at most so many times for each candidate."""

_MISLED = 2.0
"""Where the choice that promises most has so many times the tolerable output error all the same, its predictions are
given up: ops interact."""

_CAREFUL = 0.5
"""Share of the error that a miss allows for, were losses in proportion to errors."""

_QUICKER = 5.0
"""How many times more a loss may be where the error is that of a quicker recipe, which may double it."""

_NOTHING_LEFT = 0.3
"""Output error at which outputs are noise. In shipped models in int8 throughout, a detector that finds nothing has
0.68, a text recognizer that reads nothing 0.83, an orientation classifier that guesses 0.45; MobileNetV2, which loses 1
%, has 0.02."""

_CERTAIN = 0.9
"""Largest probability that a verdict gives to configs with more or fewer ops in fp32."""

_REFUTED = 10.0
_LEAST_REFUTED = 0.1
"""A prediction is refuted by a miss with so many times the loss that it said, or that this share of the target is."""

_FIRST_MISSES = 2
"""Misses after which the loss allowed is halved with every further one, whatever the predictions say."""


class Estimates:
    """Both predictions, what was tried, and the choice that promises most; lives as long as one replay of the plan."""

    def __init__(self, problem: Problem, baseline: Trial) -> None:
        first = fastest_config(problem)
        self.won = False
        """Whether any candidate keeps the target and costs less than fp32."""
        self.refuted = False
        """Whether a config that was predicted to keep the target missed it by far more than predictions are wrong."""
        self._problem = problem
        self._template = Template(config=first, steps=single_steps(problem, first), measured=False)
        unit = cost_of(problem, baseline)
        self._unit = unit if math.isfinite(unit) else 1.0
        self._tried = {baseline.config.fingerprint}
        self._trials: list[tuple[Flags, Trial]] = []
        self._best, self._best_choice = 1.0, np.ones(len(self._template.steps), dtype=bool)
        self._complete = len(self._template.steps) == len(first.ops)
        self._costs = Costs(problem, self._template.steps, complete=self._complete)
        self._perfect = is_perfect(baseline, problem.criterion)
        self._losses = Losses(problem, self._template, perfect=self._perfect)

    def fastest(self) -> Flags:
        """The choice that is fastest by the profile alone."""
        return self._costs.fastest()

    @property
    def steps(self) -> Sequence[Step]:
        """The steps that the flags of a choice stand for."""
        return self._template.steps

    def config(self, choice: Flags) -> QuantizationConfig:
        """The config that a choice stands for."""
        return config_of(self._template.config, self._template.steps, choice)

    def use(self, template: Template) -> None:
        """Go on with another template; what was measured so far was measured from the first config."""
        before = self._template
        self._template = template
        self._losses = Losses(self._problem, template, perfect=self._perfect)
        self._costs = Costs(self._problem, template.steps, complete=self._complete)
        trials, self._trials = self._trials, []
        for choice, trial in trials:
            precise = {step.op for step, on in zip(before.steps, choice, strict=True) if on}
            again = np.array([step.op in precise for step in template.steps], dtype=bool)
            self._add_cost(again, trial)
            self._losses.add(again, trial, preferred=True)
            if template.config == before.config:
                # For another template, the verdict of this choice would say nothing for certain.
                self._trials.append((again, trial))
        self._best_choice = np.ones(len(template.steps), dtype=bool)

    def add(self, choice: Flags, trial: Trial) -> bool:
        """Take in what came of a choice; whether it is noticeably better than the best before it."""
        self._tried.add(trial.config.fingerprint)
        self._refute(choice, trial)
        self._trials.append((choice, trial))
        cost = self._add_cost(choice, trial)
        if trial.met and not math.isfinite(cost):
            # Nobody could tell how fast it is, so that what is predicted stands for it.
            cost = self.predicted_cost(choice)
        self._losses.add(choice, trial, preferred=False)
        if not (trial.met and cost < self._best):
            return False
        noticeable = not self.won or cost < (1 - _NOTICEABLE) * self._best
        self.won, self._best, self._best_choice = True, cost, choice
        return noticeable

    def _add_cost(self, choice: Flags, trial: Trial) -> float:
        cost = cost_of(self._problem, trial) / self._unit
        if math.isfinite(cost):
            self._costs.add(choice, cost, timing_noise(trial, cost))
        return cost

    def _refute(self, choice: Flags, trial: Trial) -> None:
        if not self._template.measured or trial.loss is None or trial.met:
            return
        target = self._problem.criterion.target
        predicted = self.predicted_loss(choice)
        wrong = trial.loss > _REFUTED * max(predicted, _LEAST_REFUTED * target)
        self.refuted |= wrong and predicted <= target and self.clarity(trial) > _CERTAIN

    def next(self, idle: float) -> Flags | None:
        """The choice to measure next; None where nothing promises enough.

        Args:
            idle: How many evaluations in a row were spent on candidates that did not improve on the best. With each,
                the probability that the target is kept counts for more against the gain.
        """
        choice = None
        for _ in range(_CHECKS):
            choice = self._most_promising(idle)
            if choice is None or not self._template.measured:
                return choice
            error = self.output_error(choice)
            agrees = self._losses.add_error(choice, error)
            if error > _NOTHING_LEFT:
                self._tried.add(self.config(choice).fingerprint)
            elif agrees:
                return choice
        tolerable = self.tolerable_error()
        if self.won or tolerable is None or error <= _MISLED * tolerable:
            return choice
        return self.within_reach() or choice

    def within_reach(self) -> Flags | None:
        """A choice whose own output error is tolerable, whatever single ops are said to cause."""
        tolerable = self.tolerable_error()
        if tolerable is None:
            return None
        found = within_reach(self.ranking(), self._costs.gain, self.output_error, tolerable)
        if found is None or self.config(found).fingerprint in self._tried:
            return None
        return found if self.gains(found) else None

    def output_error(self, choice: Flags) -> float:
        """The output error of a choice without recipes that take seconds; not a number where there was no time."""
        return self._quick_error(self.config(choice))

    def _quick_error(self, config: QuantizationConfig) -> float:
        return float(self._problem.insights.output_error(self._problem.space.quick(config)))

    def tolerable_error(self) -> float | None:
        """The output error up to which a choice may keep the target; None where that is in no known unit.

        At first by the scale that is usual; then half of what each miss says.
        """
        criterion = self._problem.criterion
        if criterion.relative is None or not self._template.measured:
            return None
        law = self._losses.law
        tolerable = criterion.target / law.scale
        for choice, trial in self._trials:
            if trial.loss is not None and not trial.met:
                error = self.output_error(choice)
                if math.isfinite(error):
                    tolerable = min(tolerable, _CAREFUL * error * criterion.target / law.additive(trial.loss))
        return tolerable

    def is_hopeless(self, config: QuantizationConfig) -> bool:
        """Whether a config's output error alone says that it misses the target by far.

        Outputs that are mostly noise, or not finite, no recipe and no unit of the loss makes useful.
        """
        error = self._quick_error(config)
        if error > _NOTHING_LEFT:
            self._tried.add(config.fingerprint)
            return True
        criterion = self._problem.criterion
        law = LossLaw(target=criterion.target, root=self._perfect)
        beyond = law.hopeless * (1.0 if is_telling(self._problem, config) else _QUICKER)
        return criterion.relative is not None and law.predicted(error) > beyond * criterion.target

    def predicted_loss(self, choice: Flags) -> float:
        """The loss that is expected of a choice."""
        return float(self._losses.predict(choice[None])[0][0])

    @property
    def best(self) -> float:
        """The least cost of what keeps the target, fp32's included, as a share of the baseline's."""
        return self._best

    def predicted_cost(self, choice: Flags) -> float:
        """The cost that is expected of a choice, as a share of the baseline's."""
        return float(self._costs.predict(choice[None])[0])

    def gains(self, choice: Flags) -> bool:
        """Whether a choice is predicted to be noticeably faster than the best so far."""
        return self.predicted_cost(choice) < (1 - _NOTICEABLE) * self._best

    def verdict(self, choice: Flags) -> bool | None:
        """Whether a choice keeps the target by what was measured of others; None where that says nothing."""
        for other, trial in self._trials:
            if trial.met and (choice | ~other).all():
                return True
            if trial.loss is not None and not trial.met and self.clarity(trial) > _CERTAIN and (other | ~choice).all():
                return False
        return None

    def ranking(self) -> list[int]:
        """The steps by what they are said to take away of the loss for what they cost, the best bargains first."""
        gain = self._costs.gain
        # Costs are uncertain as well: a step that seems to cost nothing is not taken to be better than all others.
        least = 0.1 * float(np.abs(gain).mean()) + 1e-12 if len(gain) else 0.0
        worth = self._losses.prior / np.maximum(gain, least)
        order: list[int] = []
        for index in (int(i) for i in np.argsort(-worth, kind="stable")):
            needs = self.steps[index].needs
            if needs is not None and needs not in order:
                order.append(needs)
            if index not in order:
                order.append(index)
        return order

    @property
    def template_ops(self) -> Sequence[str]:
        """The ops that the template quantizes."""
        return list(self._template.config.ops)

    def reason(self) -> str:
        """Why there is no next choice."""
        if self.won:
            return "target met and no faster config predicted"
        return "fp32 is the fastest of the configs predicted to keep the target"

    def _most_promising(self, idle: float) -> Flags | None:
        """The untried choice with the largest gain times the probability that it keeps the target."""
        choices = self._candidates()
        if not len(choices):
            return None
        if self._template.measured and self.won:
            # Costs stay uncertain after measuring, and a small chance of a gain costs a fraction of an evaluation.
            gain, least = self._costs.improvement(choices, self._best), 0.5 * _NOTICEABLE
        else:
            gain, least = self._best - self._costs.predict(choices), _NOTICEABLE
        loss, probability = self._losses.predict(choices)
        probability = self.with_verdicts(choices, probability)
        probability[loss > self.limit()] = 0.0
        promise = np.where(gain >= least * self._best, gain * probability, 0.0)
        promise[promise < _WORTHWHILE * self._best] = 0.0
        promise *= probability ** (_CAUTION * idle)
        for index in np.argsort(-promise, kind="stable"):
            if promise[index] == 0:
                return None
            choice: Flags = choices[index]
            if self.config(choice).fingerprint not in self._tried:
                return choice
        return None

    def _candidates(self) -> Flags:
        """The choices to look at, (p, n)."""
        n = len(self.steps)
        if n <= _COMPLETE:
            every = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)
            return every[in_order(self.steps, every)]
        program = Program(gain=self._costs.gain, loss=self._losses.each, conversions=self._costs.conversions)
        limit = self._losses.law.additive(min(self._problem.criterion.target, self.limit()))
        solved = program.solve([share * limit for share in _BUDGETS])
        flipped = [self._flipped(choice) for choice in ([self._best_choice] if self.won else solved[-1:])]
        choices = np.concatenate([np.array(solved, dtype=bool).reshape(-1, n), *flipped])
        return choices[in_order(self.steps, choices)]

    def _flipped(self, choice: Flags) -> Flags:
        """The choices that differ from this one in a single step and cost less, the best bargains of them, (p, n)."""
        change = np.where(choice, -self._costs.gain, self._costs.gain) + self._costs.conversions.of_flips(choice)
        lost = np.where(choice, self._losses.each, 0.0)
        steps = np.flatnonzero(change < 0)
        steps = steps[np.argsort(change[steps] / (lost[steps] + 1e-12), kind="stable")][:_FLIPS]
        flipped = np.repeat(choice[None], len(steps), axis=0)
        flipped[np.arange(len(steps)), steps] ^= True
        return flipped

    def with_verdicts(self, choices: Flags, probability: Vector) -> Vector:
        """Ops returned to fp32 do little harm: more of them than a config that keeps the target keep it as well.

        And fewer than one that misses it miss it as well; as far as the evaluation data can tell the two apart.
        """
        probability = probability.copy()
        for choice, trial in self._trials:
            if trial.loss is None:
                continue
            again = self._losses.kept_again(trial)
            if trial.met:
                more = (choices | ~choice).all(axis=1)
                probability[more] = np.maximum(probability[more], min(again, _CERTAIN))
            else:
                fewer = (choice | ~choices).all(axis=1)
                probability[fewer] = np.minimum(probability[fewer], max(again, 1 - _CERTAIN))
        return probability

    def limit(self) -> float:
        """The largest predicted loss of a candidate."""
        missed = [(choice, trial) for choice, trial in self._trials if trial.loss is not None and not trial.met]
        clear = sum(self.clarity(trial) for _, trial in missed)
        if self.won or clear <= _FIRST_MISSES:
            return math.inf
        lowest = min(self.predicted_loss(choice) for choice, _ in missed)
        return float(0.5 ** (clear - _FIRST_MISSES) * max(lowest, self._problem.criterion.target))

    def clarity(self, trial: Trial) -> float:
        """How clearly a trial missed the target: 1, or less where the evaluation data can hardly tell."""
        return 1.0 if trial.loss is None else 1.0 - 2.0 * min(0.5, self._losses.kept_again(trial))
