"""The default: predict loss and latency of every config from little, then measure only what is predicted to win."""

from __future__ import annotations

import itertools
import math

import numpy as np

from autotune.config import FP32, QuantizationConfig
from autotune.errors import StrategyError
from autotune.strategies.estimates import Estimates, Template
from autotune.strategies.moves import fallback_order, uniform_configs
from autotune.strategies.replay import Plan, PlannedStrategy
from autotune.strategy import Problem, Proposal

_MOST_MISSES = 8
"""After as many halvings the loss allowed for is 1/256 of the target."""

_FOCUS = 12
"""How many ops, the most sensitive ones, are looked at one by one under another calibration."""


class Auto(PlannedStrategy):
    """Solves for the fastest config whose predicted loss keeps the target, measures it, corrects itself, repeats.

    1. Calibration algorithm, weight scheme and recipe: those whose uniform config has the least output error on a few
       samples; the most sensitive ops may keep others. No evaluation is spent on it.
    2. That config is evaluated. It scales both predictions: the loss of a config as the sum of its int8 ops' output
       errors, its cost as the sum of the profiled times of its ops and of the conversions between them.
    3. An integer program picks the ops that go to fp32: least cost, loss within the target. An op that is faster in
       fp32 goes there even when the target is met. Before the pick is evaluated, its output error on a few samples
       must agree with what the single ops' errors add up to; otherwise these are corrected and it picks again.
    4. After each evaluation both predictions are corrected by Bayesian regression, for single ops and not only in
       scale. As long as nothing keeps the target, each miss at least halves the loss that is allowed for; later, where
       the predictions contradict the measured verdicts, the budget is bisected between the two. So that it is a
       bisection along a path of good configs where the prediction of losses is of no use.
    5. When no config is predicted to be faster, ops are given back to int8 whose loss may have been overrated, until
       ``patience`` candidates in a row did not win.

    Costs: one evaluation where plain quantization keeps the target and is fastest, typically 4 to 10 otherwise, however
    many ops there are; the sensitivities cost a pass of a few samples for each op. Choose it always, unless the point
    is to compare with something else.

    Builds on: noise-to-signal ratios that add up and integer programs over them (HAWQ-V3, arXiv 2011.10680; NVIDIA
    ModelOpt's auto_quantize), bisection along a sensitivity order (arXiv 2302.01382), give-back (``mse_v2``).
    """

    def __init__(self, *, patience: int = 4, templates: int = 8) -> None:
        """Choose how persistent the search is.

        Args:
            patience: How many candidates in a row may fail to improve on the best before it ends.
            templates: How many uniform configs compete by output error.

        Raises:
            StrategyError: One of them is less than 1.
        """
        super().__init__()
        for name, value in (("patience", patience), ("templates", templates)):
            if value < 1:
                raise StrategyError(f"`{name} >= 1` must hold, but got {value}")
        self.patience = patience
        self.templates = templates

    def plan(self, problem: Problem) -> Plan:
        """Uniform config, then what the program picks until nothing better is predicted."""
        baseline = yield Proposal(config=QuantizationConfig(), note="fp32 baseline")
        template = _template(problem, self.templates)
        first = yield Proposal(config=template.config, note=template.note, needs_accuracy=True)
        estimates = Estimates(problem, template, baseline, first)
        idle = misses = 0
        while (fp32 := estimates.next()) is not None:
            note = f"{int(fp32.sum())} of {len(fp32)} ops in fp32, predicted loss {estimates.predicted_loss(fp32):.2%}"
            trial = yield Proposal(config=estimates.config(fp32), note=note)
            if estimates.add(fp32, trial):
                idle = 0
            elif estimates.won:
                idle += 1
            else:
                misses += 1
            if idle >= self.patience:
                return f"target met, and the last {idle} candidates predicted to be faster did not win"
            if misses >= _MOST_MISSES:
                return f"target missed by {misses} candidates, with ever less int8"
        return estimates.reason()


def _template(problem: Problem, templates: int) -> Template:
    """The config with the least output error among the uniform ones and a mixture of two of them.

    Only those compete that compute as the preferred one does, since nothing is known yet of their speed. In the
    mixture the most sensitive ops take the calibration and weight scheme that disturb less when they alone are in int8.
    """
    preferred = problem.space.preferred
    alike = [
        (config, note)
        for config, note in itertools.islice(uniform_configs(problem.space), templates)
        if all(config[op].activation == preferred[op].activation for op in preferred.ops)
    ]
    own = problem.insights.sensitivity()
    order = [op for op in fallback_order(problem) if preferred[op] != FP32]
    errors = {op: own.get(op, 0.0) for op in order}
    if len(alike) < 2:
        return Template(config=preferred, errors=errors, note=alike[0][1])
    error_of = problem.insights.output_error
    whole = [error_of(config) for config, _ in alike]
    best, note = alike[int(np.argmin(whole))]
    note = f"{note}: the least output error of {len(alike)} like it"
    if best == preferred:
        return Template(config=best, errors=errors, note=note)
    share = min(whole) / whole[0] if math.isfinite(whole[0]) and whole[0] > 0 else 1.0
    single = {op: errors[op] * share for op in order}
    for op in order[:_FOCUS]:
        single[op] = error_of(QuantizationConfig(ops={op: best[op]}, recipe=best.recipe))
    better = [op for op in order[:_FOCUS] if errors[op] < single[op]]
    mixed = best.replace({op: preferred[op] for op in better})
    if better and best.recipe == preferred.recipe and error_of(mixed) < min(whole):
        best, note = mixed, f"{note}, {len(better)} sensitive ops as preferred"
        single.update({op: errors[op] for op in better})
    ranked = dict(sorted(single.items(), key=lambda item: -item[1]))
    return Template(config=best, errors=ranked, note=note)
