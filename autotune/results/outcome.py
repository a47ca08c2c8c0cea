"""The outcome of a run in words that the terminal and the report share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autotune.constraints import Constraints
from autotune.criterion import Criterion, Verdict
from autotune.notes import counted
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial

if TYPE_CHECKING:
    from autotune.results.summary import TuningSummary

_WORDS = {
    Verdict.MET: "Target met",
    Verdict.MISSED: "Target missed",
    Verdict.UNDECIDED: "Undecided",
}


def verdict_text(summary: TuningSummary) -> str:
    """Both verdicts in a few words, and whether the samples prove that of the accuracy."""
    text = _WORDS[summary.verdict]
    if summary.proven is False and summary.verdict is not Verdict.UNDECIDED:
        text += " on these samples, not proven"
    if summary.speed is Verdict.UNDECIDED:
        text += ", speed undecided"
    return text


def answer_text(summary: TuningSummary) -> str:
    """Describe the answer by the figure that the run minimized."""
    best = summary.best
    if best.config.is_fp32:
        on = "" if summary.baseline_runtime is None else f" on {summary.baseline_runtime}"
        return f"the answer is the fp32 model itself{on}"
    return f"{trial_name(best)}, {_gain(summary, best)}"


def trial_name(trial: Trial) -> str:
    """A trial by its number, by its runtime where a run has several, and whether its weights were trained."""
    runtime = "" if trial.config.runtime is None else f" on {trial.config.runtime}"
    return f"trial {trial.number}{runtime}" + (" (trained)" if trial.config.trained else "")


def _gain(summary: TuningSummary, trial: Trial) -> str:
    baseline = summary.baseline.measurement
    return gain_text(summary.objective, baseline, trial.measurement, fp32=summary.fp32_name)


def gain_text(
    objective: Objective, baseline: Measurement | None, measured: Measurement | None, *, fp32: str = "fp32"
) -> str:
    """By how much a candidate improves the objective over fp32.

    Args:
        objective: Figure that the run minimized.
        baseline: The fp32 model.
        measured: The candidate.
        fp32: Name of the fp32 model.
    """
    if baseline is None or measured is None:
        return "not measured"
    if objective is Objective.THROUGHPUT:
        gain, rate = measured.throughput_gain, measured.throughput
        if gain is None or rate is None:
            return "throughput not measured"
        return f"{gain:.2f}x the samples per second of {fp32} ({rate:.4g} per second)"
    if objective.is_about_speed:
        remark = precision_remark(measured)
        sure = f" ({remark})" if remark else ""
        return "speed not measured" if measured.speedup is None else f"{measured.speedup:.2f}x as fast as {fp32}{sure}"
    pair = (baseline.size_bytes, measured.size_bytes)
    if objective is Objective.MEMORY:
        pair = (baseline.peak_memory_bytes, measured.peak_memory_bytes)
    what = "size" if objective is Objective.SIZE else "peak memory"
    if not pair[0] or pair[1] is None:
        return f"{what} not measured"
    return f"{pair[1] / pair[0]:.0%} of {fp32}'s {what}"


def precision_remark(measured: Measurement | None) -> str:
    """A remark on a speedup whose interval stayed wider than was asked for; empty for the others.

    It is undecided where its interval holds 1, so that it may be no gain at all, and imprecise elsewhere.
    """
    if measured is None or measured.latency_decided is not False:
        return ""
    interval = measured.speedup_interval
    return "undecided" if interval is None or interval.low <= 1 <= interval.high else "imprecise"


def target_text(criterion: Criterion, constraints: Constraints | None = None) -> str:
    """The largest loss allowed, in words; where there are limits of speed or size instead, those."""
    if constraints is not None:
        return str(constraints)
    kind = "relative" if criterion.relative is not None else "absolute"
    sure = f" at {criterion.confidence:.0%} confidence over all candidates" if criterion.confidence is not None else ""
    return f"loss of at most {amount_text(criterion)} {kind}{sure}"


def amount_text(criterion: Criterion) -> str:
    """The largest loss allowed as a figure: ``1 %`` where it is a share of fp32's accuracy, else in its unit."""
    if criterion.relative is not None:
        return f"{criterion.relative * 100:.4g} %"
    return f"{criterion.target:.4g}"


def proof_text(summary: TuningSummary) -> str | None:
    """Advice that would prove the verdict where the interval of the loss holds the target; None where it does not."""
    if summary.proven is not False:
        return None
    samples = summary.samples_to_decide
    if samples is None:
        more = "no evaluation set is large enough to decide it, for the loss lies on the target"
    else:
        more = f"about {counted(_rounded(samples), 'sample')} would decide"
    return f"The interval of the loss holds the target, so that these samples do not prove the verdict; {more}"


def holdout_text(summary: TuningSummary) -> str | None:
    """How the data held out was used; None where it was not."""
    uses = summary.holdout_uses
    if not uses:
        return None
    if uses == 1:
        return "The data held out was used once, on one candidate"
    return f"The data held out was used on {uses} candidates, the intervals there are the wider for each"


def nearest_text(summary: TuningSummary) -> str | None:
    """Which candidate is offered beside fp32, and why it is not the answer; None where there is none."""
    nearest = summary.nearest
    if nearest is None:
        return None
    gain, name = _gain(summary, nearest), trial_name(nearest)
    if summary.verdict is Verdict.MET:
        return f"{name[0].upper()}{name[1:]} keeps the target and is not known to be faster: {gain}"
    known = "misses" if summary.verdict is Verdict.MISSED else "is not known to keep"
    if summary.objective is not Objective.ACCURACY:
        return f"The nearest candidate, {name}, {known} the target: {gain}"
    size = None if nearest.measurement is None else nearest.measurement.size_bytes
    return f"The nearest candidate, {name}, {known} the limits: {gain}" + ("" if size is None else f", {size:,} bytes")


def started_text(summary: TuningSummary) -> str | None:
    """A sentence on the config that the run started from: confirmed, refuted or neither; None where there was none."""
    start = summary.started_from
    if start is None:
        return None
    if start.trial is None:
        return f"Neither confirmed nor refuted: of the config of {start.source}, {start.reason}"
    trial = summary.trial(start.trial)
    if start.confirmed:
        same = "is the answer" if trial.number == summary.best.number else f"{trial_name(summary.best)} is better"
        gain = _gain(summary, trial)
        return f"Confirmed: the config of {start.source} keeps the target, {gain} ({trial_name(trial)}), and {same}"
    word = "Refuted" if start.verdict is Verdict.MISSED else "Neither confirmed nor refuted"
    return f"{word}: the config of {start.source} ({trial_name(trial)}): {start.reason}"


def leaving_text(summary: TuningSummary) -> str | None:
    """A sentence on the gain of leaving the framework of the user's model.

    It is None where no other runtime was searched beside the framework's own.

    It compares the answer with the fastest model on the other side that is known to keep the target, fp32 among them.
    Where no race was run for want of time, one of these may have been measured faster than the answer.
    """
    home, speeds = summary.home_runtime, summary.fp32_speeds
    if home is None or len(speeds) < 2 or summary.objective is not Objective.LATENCY:
        return None
    if home not in speeds:
        return f"{home} took no part, so that the gain of leaving it is not known"
    others, stays = [name for name in speeds if name != home], summary.runtime == home
    answer = _answer(summary)
    here = answer if stays else _fastest(summary, [home])
    there = _fastest(summary, others) if stays else answer
    ratio = there[0] / here[0]
    scored = {trial.config.runtime for trial in summary.history if trial.measurement is not None and trial.number}
    unscored = [name for name in speeds if name not in scored]
    limit = f"; no quantized model was scored on {', '.join(unscored)}" if unscored else ""
    if stays and ratio > 1:
        return (
            f"Leaving {home} is not known to bring anything: {there[1]} was measured {ratio:.2f}x as fast as the "
            f"answer, {here[1]}, which no race has confirmed{limit}"
        )
    if ratio <= 1:
        return f"Leaving {home} brings nothing: {there[1]} is {ratio:.2f}x as fast as {here[1]}{limit}"
    return f"Leaving {home} makes the model {ratio:.2f}x as fast: {there[1]} instead of {here[1]}{limit}"


def _answer(summary: TuningSummary) -> tuple[float, str]:
    """The speed and the name of the answer."""
    best = summary.best
    speedup = None if best.measurement is None else best.measurement.speedup
    if best.number == 0 or speedup is None:
        runtime = str(summary.runtime)
        return summary.fp32_speeds[runtime], f"fp32 on {runtime}"
    return speedup, trial_name(best)


def _fastest(summary: TuningSummary, runtimes: Sequence[str]) -> tuple[float, str]:
    """The speed and the name of the fastest model on some runtimes that is known to keep the target."""
    found = [(summary.fp32_speeds[runtime], f"fp32 on {runtime}") for runtime in runtimes]
    for trial in summary.history:
        measured = trial.measurement
        if trial.config.runtime in runtimes and measured is not None and measured.verdict is Verdict.MET:
            found += [] if measured.speedup is None else [(measured.speedup, trial_name(trial))]
    return max(found)


def _rounded(samples: int) -> int:
    """A number rounded up to two significant digits, since it is an estimate."""
    step: int = 10 ** max(0, len(str(samples)) - 2)
    return -(-samples // step) * step
