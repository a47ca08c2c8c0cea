"""Summary of a run, as its workspace keeps it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.arguments import require
from autotune.config import Precision
from autotune.constraints import Constraints
from autotune.criterion import Criterion, Verdict
from autotune.errors import InputError, WorkspaceError
from autotune.notes import counted
from autotune.results.outcome import answer_text, leaving_text, verdict_text
from autotune.results.started import StartedFrom
from autotune.results.tables import precision_table, trial_table
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial
from autotune.tuning.answer import provisional
from autotune.tuning.evidence import Evidence
from autotune.tuning.history import HOLDOUT, RUNTIMES, SETUP, SUMMARY, read_study
from autotune.tuning.race import Race
from autotune.tuning.selection import pareto_front

if TYPE_CHECKING:
    import pandas as pd


NEAREST = "nearest"
"""Name, without its ending, of what the workspace keeps the model of :attr:`TuningSummary.nearest` in."""


SUMMARY_FORMAT = 2
"""2: speed has a verdict of its own, and a missed target is answered with fp32. 1: no format was written; the answer to
a missed target was the nearest candidate."""


@dataclass(frozen=True, kw_only=True, repr=False)
class TuningSummary:
    """Findings of a run and how they were made; a report shows them, and a workspace keeps them.

    Attributes:
        verdict: Whether a candidate keeps the accuracy target, as far as one had to.
        best: The answer, which keeps the target whenever anything does: fp32 where no candidate that keeps it is proven
            faster (smaller, where size is the objective).
        baseline: The fp32 model, measured in the same run.
        reason: Why this one is the answer.
        speed: Whether ``best`` is proven faster than fp32 (``met``), nothing that keeps the target is (``missed``), or
            the machine was too busy to tell (``undecided``). None where speed is not the objective, or no candidate
            keeps the target.
        nearest: Where fp32 is the answer because no candidate is known to keep the target, or to be faster: the one
            that came nearest. It is saved beside the answer.
        objective: The figure that the best model has least of.
        end_reason: Why the search ended.
        interrupted: Whether the user ended it.
        criterion: The target.
        constraints: The limits, where accuracy is the objective.
        instances: Processes that run a model at the same time, where throughput is the objective.
        history: Every trial by number, the baseline first.
        op_types: The type of every op that could be tuned, by name.
        costly_ops: The ops whose quantization costs most, among those that were measured by themselves, worst first,
            with their noise-to-signal ratio at the model's outputs; empty where the target is met.
        saturation_risk: The ops of ``best`` whose products can saturate on x86 CPUs without VNNI, where its
            accuracy may be another one; see ``Tuner.portable``.
        final: ``best`` on data held out from the search, where some was. Its verdict is what the interval shows alone.
        holdout_uses: How many candidates were measured on that data; each after the first had the wider an interval.
        races: Races of the finalists, whose figures they are.
        notes: Notes on the model or the run for the user.
        seconds: Wall time by activity, with ``total``.
        host: The machine that the figures are of.
        baseline_runtime: In a run over several runtimes, that of the baseline; None in a run of one framework.
        fp32_speeds: By runtime, the speed of fp32 there relative to the baseline; empty in a run of one framework.
        home_runtime: In a run over several runtimes, the one that is the framework of the user's model, from which the
            model was converted for the others; None where there is none.
        started_from: The config that the run started from and whether it is confirmed; None where it started from none.
        evidence: Figures of single ops and tensors, and facts about the runs; the history keeps it apart.
    """

    verdict: Verdict
    best: Trial
    baseline: Trial
    reason: str
    end_reason: str
    speed: Verdict | None = None
    nearest: Trial | None = None
    objective: Objective = Objective.LATENCY
    interrupted: bool = False
    criterion: Criterion
    constraints: Constraints | None = None
    instances: int | None = None
    history: Sequence[Trial]
    op_types: Mapping[str, str]
    costly_ops: Mapping[str, float] = field(default_factory=dict)
    saturation_risk: Sequence[str] = ()
    final: Measurement | None = None
    holdout_uses: int = 0
    races: Sequence[Race] = ()
    notes: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    host: str = ""
    baseline_runtime: str | None = None
    fp32_speeds: Mapping[str, float] = field(default_factory=dict)
    home_runtime: str | None = None
    started_from: StartedFrom | None = None
    evidence: Evidence = field(default_factory=Evidence, compare=False, repr=False)

    def __repr__(self) -> str:
        trials = counted(len(self.history) - 1, "trial")
        return f"<{type(self).__name__}: {verdict_text(self)}, {answer_text(self)}, {trials}>"

    def _repr_html_(self) -> str:
        """The verdict and its figures, as notebooks show them."""
        from autotune.results.report import render_brief  # noqa: PLC0415  as in `report`

        return render_brief(self)

    def trial(self, number: int) -> Trial:
        """The trial of a number.

        Raises:
            InputError: There is none.
        """
        found = next((each for each in self.history if each.number == number), None)
        if found is None:
            raise InputError(
                f"A trial must be one of the {len(self.history)} of this run, the last of which is "
                f"{self.history[-1].number}, but there is no trial {number!r}. `autotune report WORKSPACE` lists them"
            )
        return found

    def excluded_nodes(self, trial: int | None = None) -> list[str]:
        """The ops that a config does not compute in int8 with ranges from calibration, in graph order.

        They are for users of plain ONNX Runtime: ``nodes_to_exclude`` of its ``quantize_static``, with
        ``op_types_to_quantize=sorted(set(result.op_types.values()))``.

        Args:
            trial: Number of the trial; None: the answer.

        Raises:
            InputError: There is no such trial.
        """
        config = (self.best if trial is None else self.trial(trial)).config
        return [op for op in self.op_types if config[op].precision is not Precision.INT8]

    @property
    def shown(self) -> Trial:
        """The trial whose config explains the run: the answer, or the nearest candidate where the answer is fp32.

        Where there is neither, it is the trial with most quantized ops.
        """
        if not self.best.config.is_fp32 or self.nearest is not None:
            return self.best if self.nearest is None else self.nearest
        return max(self.history, key=lambda trial: len(trial.config.ops))

    @property
    def shown_runtime(self) -> str | None:
        """The runtime of :attr:`shown`; None in a run of one framework."""
        return self.shown.config.runtime or self.baseline_runtime

    @property
    def runtime(self) -> str | None:
        """The runtime of the answer's model; None in a run of one framework."""
        return self.best.config.runtime or self.baseline_runtime

    @property
    def fp32_name(self) -> str:
        """The reference of all speeds in words: fp32, and its runtime where there are several."""
        return "fp32" if self.baseline_runtime is None else f"fp32 on {self.baseline_runtime}"

    @property
    def success(self) -> bool:
        """Whether target and speed are both answered for, which is exit status 0: ``met``, and speed not undecided."""
        return self.verdict is Verdict.MET and self.speed is not Verdict.UNDECIDED

    @property
    def speedup(self) -> float | None:
        """How many times as fast as the baseline the answer is; None where its latency was not measured."""
        return None if self.best.measurement is None else self.best.measurement.speedup

    @property
    def baseline_latency_ms(self) -> float | None:
        """Latency of fp32 among the calls from which the answer's comes, or the nearest candidate's beside fp32."""
        return self.baseline_measurement.latency_ms

    @property
    def baseline_measurement(self) -> Measurement:
        """The figures of fp32, its latency among the calls from which the answer's comes where they are known."""
        own, judged = self.baseline.measurement or Measurement(), self._judged
        if judged is None or judged.fp32_latency_ms is None:
            return own
        return dataclasses.replace(
            own,
            latency_ms=judged.fp32_latency_ms,
            latency_p90_ms=judged.baseline_p90_ms,
            latency_p99_ms=judged.baseline_p99_ms,
        )

    @property
    def proven(self) -> bool | None:
        """Whether the interval of the loss lies on one side of the target, so that the samples prove the verdict.

        It is that of the answer, or of the nearest candidate where the answer is fp32. None where there is neither or
        losses have no intervals, as with an ``eval_fn``.
        """
        judged = self._judged
        if judged is None or judged.loss_interval is None:
            return None
        return self.criterion.shown(judged.loss_interval) is not Verdict.UNDECIDED

    @property
    def samples_to_decide(self) -> int | None:
        """About how many evaluation samples would prove the verdict, where these do not and a million would."""
        judged = self._judged
        samples = None if judged is None else judged.samples_total
        if self.proven is not False or judged is None or samples is None:
            return None
        assert judged.loss is not None
        assert judged.loss_interval is not None
        return self.criterion.samples_to_decide(judged.loss, judged.loss_interval, samples)

    @property
    def _judged(self) -> Measurement | None:
        """The measurement of the candidate that the verdict is about; None where it is about none."""
        trial = self.nearest if self.best.config.is_fp32 else self.best
        return None if trial is None else trial.measurement

    @cached_property
    def trials(self) -> pd.DataFrame:
        """A row per trial, by number."""
        return trial_table(self.history, self.baseline_runtime)

    @cached_property
    def pareto(self) -> pd.DataFrame:
        """The trials that no other one beats in both loss and speedup, fastest first."""
        return trial_table(pareto_front(self.history), self.baseline_runtime)

    @property
    def leaving(self) -> str | None:
        """A sentence on what leaving the framework of the user's model brings; None where no other was searched."""
        return leaving_text(self)

    def precision_table(self) -> pd.DataFrame:
        """How many ops of each type compute in which precision, in the best model."""
        return precision_table(self.op_types, self.best)

    def report(self, path: str | Path) -> Path:
        """Write a report that a browser shows, in one file that needs nothing else.

        Raises:
            WorkspaceError: The file cannot be written.
        """
        require("path", path, str | Path, InputError)
        from autotune.results.report import write_report  # noqa: PLC0415  a report reads results, results need no report

        return write_report(self, Path(path))

    def to_json(self) -> dict[str, Any]:
        """The summary as JSON, without the trials, which are in the history."""
        runtimes: dict[str, Any] = {}
        if self.baseline_runtime is not None:
            runtimes = {"baseline_runtime": self.baseline_runtime, "fp32_speeds": dict(self.fp32_speeds)}
        if self.home_runtime is not None:
            runtimes["home_runtime"] = self.home_runtime
        if self.constraints is not None:
            runtimes["constraints"] = self.constraints.to_json()
        if self.instances is not None:
            runtimes["instances"] = self.instances
        if self.started_from is not None:
            runtimes["started_from"] = self.started_from.to_json()
        return {
            "format": SUMMARY_FORMAT,
            "verdict": str(self.verdict),
            "speed": None if self.speed is None else str(self.speed),
            "best": self.best.number,
            "nearest": None if self.nearest is None else self.nearest.number,
            "objective": str(self.objective),
            "reason": self.reason,
            "end_reason": self.end_reason,
            "interrupted": self.interrupted,
            "criterion": dataclasses.asdict(self.criterion),
            "op_types": dict(self.op_types),
            "costly_ops": dict(self.costly_ops),
            "saturation_risk": list(self.saturation_risk),
            "final": None if self.final is None else self.final.to_json(),
            "holdout_uses": self.holdout_uses,
            "races": [race.to_json() for race in self.races],
            "notes": list(self.notes),
            "seconds": dict(self.seconds),
            "host": self.host,
            **runtimes,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], history: Sequence[Trial]) -> TuningSummary:
        """Read what :meth:`to_json` wrote.

        Args:
            data: The JSON value; one of an earlier format lacks what that did not know.
            history: Every trial by number, the baseline first.

        Raises:
            WorkspaceError: A later version wrote it.
        """
        if data.get("format", 1) > SUMMARY_FORMAT:
            raise WorkspaceError(
                f"The summary has format {data['format']}, but this version reads up to {SUMMARY_FORMAT}. "
                "Read it with the version that wrote it, or a later one"
            )
        by_number = {trial.number: trial for trial in history}
        speed, final, nearest = data.get("speed"), data.get("final"), data.get("nearest")
        started, limits = data.get("started_from"), data.get("constraints")
        values = {
            **{key: value for key, value in data.items() if key != "format"},
            "verdict": Verdict(data["verdict"]),
            "speed": None if speed is None else Verdict(speed),
            "best": by_number[data["best"]],
            "nearest": None if nearest is None else by_number[nearest],
            "objective": Objective(data.get("objective", Objective.LATENCY)),
            "criterion": Criterion(**data["criterion"]),
            "constraints": None if limits is None else Constraints.from_json(limits),
            "started_from": None if started is None else StartedFrom.from_json(started),
            "final": None if final is None else Measurement.from_json(final),
            "races": tuple(Race.from_json(race) for race in data.get("races", ())),
        }
        return cls(baseline=history[0], history=history, **values)


def read_summary(storage: Path | str) -> TuningSummary:
    """The summary of a run from its workspace, also of one that was killed or still runs.

    Args:
        storage: The workspace folder, or the Optuna storage URL.

    Raises:
        WorkspaceError: There is no history, or none with a measured baseline.
    """
    trials, about = read_study(storage)
    if not trials or trials[0].measurement is None:
        raise WorkspaceError(f"{storage} holds no measured baseline yet, so that there is nothing to report")
    summary = _summary(trials, about)
    return dataclasses.replace(summary, evidence=Evidence.of(about.get, summary.shown_runtime))


def _summary(trials: Sequence[Trial], about: Mapping[str, Any]) -> TuningSummary:
    """The summary that the run stored, or one of the trials so far."""
    stored = about.get(SUMMARY)
    if stored is not None and stored["trials"] == len(trials):
        return TuningSummary.from_json({k: v for k, v in stored.items() if k != "trials"}, trials)
    setup = about[SETUP]
    objective = Objective(setup["objective"])
    conclusion = provisional(trials, objective)
    fp32 = about.get(RUNTIMES) or {}
    runtime = conclusion.best.config.runtime or fp32.get("baseline")
    return TuningSummary(
        verdict=conclusion.verdict,
        best=conclusion.best,
        speed=conclusion.speed,
        nearest=conclusion.nearest,
        objective=objective,
        holdout_uses=len(about.get(HOLDOUT) or {}),
        baseline=trials[0],
        reason=conclusion.reason,
        end_reason="it has not: the run was killed, or is still running",
        criterion=Criterion(**setup["criterion"]),
        history=trials,
        op_types=setup.get("op_types_by_runtime", {}).get(runtime, setup["op_types"]),
        baseline_runtime=fp32.get("baseline"),
        fp32_speeds=fp32.get("speeds", {}),
    )
