"""The default: start with what the profile says is fastest, then measure only what is predicted to win."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator

import numpy as np

from autotune.bounds import require_least
from autotune.config import QuantizationConfig
from autotune.errors import StrategyError
from autotune.notes import counted
from autotune.strategies.auto.afterwards import afterwards
from autotune.strategies.auto.bisection import bisect
from autotune.strategies.auto.estimates import Estimates
from autotune.strategies.auto.shrink import shrink, stores_in_bits
from autotune.strategies.auto.template import dynamic_alone, make_template, with_recipe_that_helps
from autotune.strategies.planning.planned import Plan, PlannedStrategy
from autotune.strategy import Objective, Problem, Proposal
from autotune.trial import Trial

_MOST_MISSES = 8
"""Halvings of the allowed loss at the most, which then is 1/256 of the target."""


_REACHES = 3
"""How many configs are measured for their own output errors, once predictions were refuted."""

_LEAST_SPENT = 0.1
"""The cost of applying and timing a candidate, in evaluations."""


class Auto(PlannedStrategy):
    """Starts with what the profile says is fastest; then measures what promises most, and corrects its predictions.

    1. The preferred config is evaluated, with each op in the precision that its profile says is fastest, fp32 among
       them. If it keeps the target, only configs that are predicted to be faster still are of interest, and
       sensitivities are not needed. Where that is fp32 for every op, the fastest quantized config is timed beside the
       model all the same.
    2. Otherwise the calibration algorithm and weight scheme are those whose uniform config has the least output error
       on a few samples; the most sensitive ops may keep others. Where a sensitive op has a precision between its
       fastest and fp32, slower than one and more exact than the other, that is a step of its own. No evaluation is
       spent on it.
    3. The loss of a config is predicted as the sum of its int8 ops' output errors, its cost as the sum of the profiled
       times of its ops and of the conversions between them. Bayesian regression corrects both after each evaluation.
    4. The choice of ops in fp32 with the largest product of predicted gain and probability of keeping the target is
       next. Candidates come from an integer program (least cost, loss within a budget). The output error of the choice
       on a few samples must agree with what was predicted; otherwise that is corrected and another choice made. A first
       config whose output error foretells twice the loss allowed is not evaluated at all.
    5. As long as nothing keeps the target, from the third clear miss on each halves the loss that is allowed for. It
       ends when nothing promises enough, or ``patience`` evaluations in a row did not win.
    6. Where a config that was predicted to keep the target loses ten times what was predicted, and where nothing is
       predicted to win although nothing keeps the target, it goes on by measurement: of choices whose own output error
       can be tolerated, see :mod:`autotune.strategies.auto.reach`; then the shortest prefix of the best ranking that
       keeps the target is found by bisection, see :mod:`autotune.strategies.auto.bisection`.
    7. Execution options (QDQ or QOperator, how far the runtime optimizes) are compared with the best config side by
       side, and tried where they are clearly faster. If the best loses more than a quarter of what is allowed, up to
       ``spare`` configs that run the same kernels are tried: of equally fast ones, the one that loses least is the
       answer.

    Where size is the objective and weights can be stored in fewer bits alone, it bisects from the smallest config on
    instead, see :mod:`autotune.strategies.auto.shrink`.

    Costs: one evaluation where the first config keeps the target, typically 2 to 8 otherwise, however many ops there
    are, and about log2(ops) more where predictions are worth nothing; insights cost at most one
    evaluation. Choose it always, unless the point is to compare with something else.

    Builds on: noise-to-signal ratios that add up and integer programs over them (HAWQ-V3, arXiv 2011.10680; NVIDIA
    ModelOpt's auto_quantize), bisection along a sensitivity order (arXiv 2302.01382), probability of feasibility
    (Gardner et al., ICML 2014).
    """

    def __init__(self, *, patience: int = 7, templates: int = 4, spare: int = 1) -> None:
        """Choose how persistent the search is.

        Args:
            patience: How many evaluations in a row may be spent on candidates that do not improve on the best before it
                ends; one that ends early counts by its share of the data.
            templates: How many uniform configs compete by output error.
            spare: How many configs as fast as the best may be tried for less loss; 0 for none.

        Raises:
            StrategyError: ``patience`` or ``templates`` is less than 1, or ``spare`` is negative.
        """
        super().__init__()
        require_least(1, StrategyError, patience=patience, templates=templates)
        require_least(0, StrategyError, spare=spare)
        self.spare = spare
        self.patience = patience
        self.templates = templates

    def plan(self, problem: Problem) -> Plan:
        """Settle the ops, then what is left to gain."""
        return (yield from afterwards(problem, self._settle_ops(problem), spare=self.spare))

    def _settle_ops(self, problem: Problem) -> Plan:
        """The fastest config, then what promises most until nothing does."""
        baseline = yield Proposal(config=QuantizationConfig(), note="fp32 baseline")
        if problem.objective is Objective.SIZE and stores_in_bits(problem.space):
            return (yield from shrink(problem))
        estimates = Estimates(problem, baseline)
        choice = estimates.fastest()
        # Profiles are of single ops. That fp32 wins is said of a model only once a candidate was timed beside it.
        fp32_wins = estimates.config(choice).is_fp32
        if fp32_wins:
            choice = np.zeros_like(choice)
        opening = estimates.config(choice)
        kept = False
        evaluated = fp32_wins or not estimates.is_hopeless(opening)
        if evaluated:
            note = "profiles say that fp32 is faster" if fp32_wins else _opening_note(problem, opening)
            trial = yield Proposal(config=opening, note=note)
            estimates.add(choice, trial)
            # One without a loss was ruled out by its latency, as the profiles said.
            kept = trial.met or (fp32_wins and trial.loss is None)
        if not kept:
            template = make_template(problem, opening, self.templates)
            estimates.use(with_recipe_that_helps(problem, opening, template, evaluated=evaluated))
        reason = yield from self._by_prediction(problem, estimates)
        if estimates.won or kept:
            return reason
        # That nothing is predicted to win is no ground for ending where predictions found nothing that does.
        alone = dynamic_alone(problem)
        if alone is not None and alone.ops != opening.ops:
            kept = (
                yield Proposal(config=alone, note=f"{counted(len(alone.ops), 'op')} in dynamic int8 and no other")
            ).met
        yield from self._within_reach(problem, estimates)
        yield from bisect(estimates)
        if not estimates.won:
            found = "only dynamic int8 keeps it" if kept else "bisection found no faster config that keeps it"
            return f"{reason}, and {found}"
        return (yield from self._by_prediction(problem, estimates))

    def _within_reach(self, problem: Problem, estimates: Estimates) -> Generator[Proposal, Trial, None]:
        """Measure what has a tolerable output error, less of it with every miss, as long as there is time to look."""
        for _ in range(_REACHES):
            if estimates.won or (choice := estimates.within_reach()) is None:
                return
            config = estimates.config(choice)
            note = f"{_precisions(problem, config)}, output error {estimates.output_error(choice):.2%}"
            estimates.add(choice, (yield Proposal(config=config, note=note)))

    def _by_prediction(self, problem: Problem, estimates: Estimates) -> Plan:
        """Measure what promises most until nothing does, or until predictions turn out to be worth nothing."""
        idle = misses = 0.0
        while (estimates.won or not estimates.refuted) and (following := estimates.next(idle)) is not None:
            config, loss = estimates.config(following), estimates.predicted_loss(following)
            trial = yield Proposal(config=config, note=f"{_precisions(problem, config)}, predicted loss {loss:.2%}")
            if estimates.add(following, trial):
                idle = 0.0
            elif estimates.won:
                idle += _spent_on(trial)
            else:
                misses += estimates.clarity(trial)
            if idle >= self.patience:
                return (
                    f"target met, and the last candidates predicted to be faster, {idle:.1f} evaluations, did not win"
                )
            if misses >= _MOST_MISSES:
                return "target missed by all candidates, with ever fewer ops quantized"
        if estimates.refuted and not estimates.won:
            return "target missed by far more than was predicted"
        return estimates.reason()


def _spent_on(trial: Trial) -> float:
    """Share of an evaluation that a trial took; one that its latency ruled out took little."""
    measured = trial.measurement
    if measured is None or (measured.loss is not None and not (measured.samples and measured.samples_total)):
        return 1.0
    return max(_LEAST_SPENT, (measured.samples or 0) / (measured.samples_total or 1))


def _opening_note(problem: Problem, config: QuantizationConfig) -> str:
    preferred = problem.space.preferred
    fp32 = sum(op not in config.ops for op in preferred.ops)
    parts = [f"{counted(fp32, 'op')} in fp32, faster there"] if fp32 else []
    others = Counter(
        choice.precision for op, choice in config.ops.items() if choice.precision != preferred[op].precision
    )
    parts += [f"{count} in {precision}, faster so" for precision, count in others.items()]
    return ", ".join(parts) or "every op as preferred"


def _precisions(problem: Problem, config: QuantizationConfig) -> str:
    """How many ops compute in what, in words for the trial table."""
    total = len(problem.space.preferred.ops)
    counts = config.precisions()
    parts = [f"{total - counts.total()} of {counted(total, 'op')} in fp32"]
    if len(counts) > 1:
        parts += [f"{count} in {precision}" for precision, count in counts.most_common()]
    return ", ".join(parts)
