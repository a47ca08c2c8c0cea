"""``autotune run``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from autotune.adapters import get_adapter
from autotune.cli.code import Trust, print_code
from autotune.cli.exit_status import ExitStatus
from autotune.cli.files import listed, require_place, require_workspace
from autotune.cli.json_lines import JsonLines
from autotune.cli.progress import ProgressDisplay
from autotune.cli.signals import ended_like_ctrl_c
from autotune.cli.tables import print_outcome, verdict_lines
from autotune.errors import InputError
from autotune.experiment import Experiment, load_experiments
from autotune.experiment.run import tune_experiment
from autotune.experiment.schema import Tuning
from autotune.notes import counted
from autotune.observer import Observer
from autotune.results.outcome import started_text, target_text
from autotune.results.result import TuningResult
from autotune.results.summary import NEAREST
from autotune.strategy import Objective
from autotune.tuning.models import BEST, kept_files


def run(
    experiment_file: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT.yaml", help="What to tune; `autotune init MODEL` writes one.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Replace a value of the file: tuning.random_seed=1. Repeatable."
        ),
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that the run may take.")] = None,
    max_trials: Annotated[int | None, typer.Option(help="Candidates to try at the most.")] = None,
    workspace: Annotated[str | None, typer.Option(help="Folder for the history and the models.")] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            help="A workspace, WORKSPACE:TRIAL, a tuned model or a config as JSON: its config is the first candidate, "
            "and the exit status says whether it is confirmed."
        ),
    ] = None,
    trust: Trust = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to save the tuned model; in the workspace by default.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the verdict and the files alone.")] = False,
    json_lines: Annotated[bool, typer.Option("--json", help="Print one JSON object per line and event.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove an earlier run's history, and begin anew.")] = False,
) -> None:
    """Tune a model as an experiment file says. The same command continues a run that was ended.

    Ends with status 0 where the target is met, by the tuned model or, where nothing that keeps it is faster, by fp32;
    with 3 where no candidate is known to keep it, nothing was tried, or speed is undecided: then the answer is fp32,
    and the nearest candidate lies beside it, under the name nearest. With 4 where the target is met, but the config of
    `--start-from` is not confirmed.
    """
    require_workspace(workspace)
    if output is not None:
        require_place(output, folder=True)
    if start_from == "":
        raise InputError('`--start-from` must name a config, but got "". Leave it out to start from nothing')
    if quiet and json_lines:
        raise InputError("Give --quiet or --json, not both: the one prints the outcome alone, the other every event")
    shorthands = {
        "tuning.exit_policy.timeout": timeout,
        "tuning.exit_policy.max_trials": max_trials,
        "tuning.start_from": _absolute(start_from),
        "tuning.workspace": _absolute(workspace),
    }
    given = [f"{key}={json.dumps(value)}" for key, value in shorthands.items() if value is not None]
    overridden = [*(overrides or ()), *given]
    experiments = load_experiments(experiment_file, overridden, trust or ())
    command = _command(experiment_file, overridden)
    if len(experiments) > 1 and output is not None:
        raise InputError(
            f"`--output` must be left out for several models, but {experiment_file} has {len(experiments)}"
        )
    statuses = []
    for experiment in experiments:
        statuses.append(_run(experiment, command, output, quiet=quiet, json_lines=json_lines, fresh=fresh))
        if statuses[-1] is ExitStatus.INTERRUPTED:
            break
    raise typer.Exit(max(statuses, key=_GRAVITY.index))


_GRAVITY = (ExitStatus.MET, ExitStatus.NOT_CONFIRMED, ExitStatus.NOT_MET, ExitStatus.INTERRUPTED)
"""The ends of a run, the best first: several models end with the status of the worst."""


def _run(
    experiment: Experiment, command: str, output: Path | None, *, quiet: bool, json_lines: bool, fresh: bool
) -> ExitStatus:
    """Tune one model; returns the status to end with.

    Raises:
        typer.Exit: The run was interrupted before its search, or a second time.
    """
    console = Console()
    if experiment.name is not None and not json_lines:
        console.print(Text(f"Model {experiment.name}", style="bold"), highlight=False)
    if json_lines:
        lines = JsonLines(typer.echo)
        if experiment.name is not None:
            lines.event("model", name=experiment.name)
        result = _tune(Console(stderr=True), experiment, lines, command, fresh=fresh)
        _finish_json(lines, experiment, result, output)
        return _status(result)
    if quiet:
        result = _tune(console, experiment, Observer(), command, fresh=fresh)
        _finish_quietly(console, experiment, result, output)
        return _status(result)
    _print_heading(console, experiment)
    print_code(console, experiment)
    for note in experiment.notes:
        console.print(Text(note), soft_wrap=True, highlight=False)
    policy, criterion = experiment.tuning.exit_policy, experiment.tuning.accuracy_criterion.criterion
    shown = ProgressDisplay(console, criterion, max_trials=policy.max_trials, timeout_s=policy.timeout)
    with shown as display:
        result = _tune(console, experiment, display, command, fresh=fresh)
    _finish(console, experiment, result, output)
    return _status(result)


def _absolute(path: str | None) -> str | None:
    """A path of the command line for the experiment, whose own paths start at its folder."""
    return None if path is None else str(Path(path).absolute())


def _command(experiment_file: Path, overrides: Sequence[str]) -> str:
    """The command that repeats this run."""
    return shlex.join(
        ["autotune", "run", str(experiment_file), *(part for each in overrides for part in ("--set", each))]
    )


def _tune(console: Console, experiment: Experiment, observer: Observer, command: str, *, fresh: bool) -> TuningResult:
    try:
        with ended_like_ctrl_c():
            return tune_experiment(experiment, observer, command, fresh=fresh)
    except KeyboardInterrupt:
        # During the search the run ends by itself and returns its best; this is before it, or a second Ctrl-C.
        kept = f"Interrupted. What was measured is kept in {experiment.workspace}; the same command continues."
        console.print(Text(kept), soft_wrap=True)
        raise typer.Exit(ExitStatus.INTERRUPTED) from None


def _print_heading(console: Console, experiment: Experiment) -> None:
    tuning = experiment.tuning
    runtimes = "" if experiment.runtimes is None else f", runtimes {', '.join(experiment.runtimes)}"
    console.print(
        Text("autotune ", style="bold").append(
            f"{experiment.model.name}: {_goal(tuning)}, strategy {tuning.strategy.name}{runtimes}",
            style="default",
        ),
        soft_wrap=True,
        highlight=False,
    )


def _goal(tuning: Tuning) -> str:
    """The figure that is optimized, and the limit that must be kept."""
    criterion = tuning.accuracy_criterion.criterion
    if tuning.constraints is not None:
        return f"least loss with {target_text(criterion, tuning.constraints.constraints)}"
    aim = f"least {tuning.objective}"
    if tuning.objective is Objective.THROUGHPUT:
        aim = f"most samples per second of {counted(tuning.instances, 'instance')}"
    return f"{aim} at a {target_text(criterion)}"


def _finish(console: Console, experiment: Experiment, result: TuningResult, output: Path | None) -> None:
    print_outcome(console, result)
    _print_files(console, *_written(experiment, result, output))
    if result.nearest is not None and (nearest := _kept(experiment, NEAREST)):
        line = f"Nearest candidate, which is not the answer: {listed(nearest)}"
        console.print(Text(line), soft_wrap=True, highlight=False)


def _finish_quietly(console: Console, experiment: Experiment, result: TuningResult, output: Path | None) -> None:
    console.print(verdict_lines(result)[0], soft_wrap=True, highlight=False)
    if text := started_text(result):
        console.print(Text(f"{text}."), soft_wrap=True, highlight=False)
    _print_files(console, *_written(experiment, result, output))


def _finish_json(lines: JsonLines, experiment: Experiment, result: TuningResult, output: Path | None) -> None:
    saved, report = _written(experiment, result, output)
    measured = result.best.measurement
    lines.event(
        "result",
        verdict=str(result.verdict),
        speed=None if result.speed is None else str(result.speed),
        success=result.success,
        started_from=None if result.started_from is None else result.started_from.to_json(),
        best=result.best.number,
        nearest=None if result.nearest is None else result.nearest.number,
        measurement=None if measured is None else measured.to_json(),
        reason=result.reason,
        end_reason=result.end_reason,
        model=[str(file) for file in saved],
        report=str(report),
    )


def _written(experiment: Experiment, result: TuningResult, output: Path | None) -> tuple[tuple[Path, ...], Path]:
    """The files of the answer's model, and the report, which is written now."""
    saved = result.save_files(output) if output is not None else _kept(experiment, BEST)
    report = result.report(experiment.workspace / "report.html")
    return saved, report


def _print_files(console: Console, saved: Sequence[Path], report: Path) -> None:
    console.print(Text(f"Model:  {listed(saved)}\nReport: {report}"), soft_wrap=True, highlight=False)


def _status(result: TuningResult) -> ExitStatus:
    if result.interrupted:
        return ExitStatus.INTERRUPTED
    if not result.success:
        return ExitStatus.NOT_MET
    start = result.started_from
    return ExitStatus.MET if start is None or start.confirmed else ExitStatus.NOT_CONFIRMED


def _kept(experiment: Experiment, name: str) -> tuple[Path, ...]:
    """The files of a model that the run keeps in its workspace; empty where there is none of that name."""
    return kept_files(experiment.workspace, name, get_adapter(experiment.model.framework).suffix)
