"""``autotune worker``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from autotune.cli.code import Trust, print_code
from autotune.cli.exit_status import ExitStatus
from autotune.cli.files import require_workspace
from autotune.cli.progress import ProgressDisplay
from autotune.cli.signals import ended_like_ctrl_c
from autotune.experiment import load_experiment
from autotune.experiment.run import join_experiment


def worker(
    experiment_file: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT.yaml", help="The experiment of the run to take part in.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the file, as for `run`. Repeatable."),
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that this worker may take.")] = None,
    workspace: Annotated[str | None, typer.Option(help="Folder for what this worker caches.")] = None,
    trust: Trust = None,
) -> None:
    """Take part in a run of the same experiment, on this machine or on another one.

    Tries candidates of the study that `tuning.storage` names, until none is left; without `storage`, of the workspace's
    own. `autotune run` is what races the finalists and gives the answer. Model and data are this worker's own copies,
    which must be the same. A worker that is killed does no harm: its trial is tried by another one.
    """
    require_workspace(workspace)
    shorthands = {
        "tuning.exit_policy.timeout": timeout,
        "tuning.workspace": None if workspace is None else str(Path(workspace).absolute()),
    }
    given = [f"{key}={json.dumps(value)}" for key, value in shorthands.items() if value is not None]
    experiment = load_experiment(experiment_file, [*(overrides or ()), *given], trust or ())
    console = Console()
    print_code(console, experiment)
    policy, criterion = experiment.tuning.exit_policy, experiment.tuning.accuracy_criterion.criterion
    shown = ProgressDisplay(console, criterion, max_trials=policy.max_trials, timeout_s=policy.timeout)
    with ended_like_ctrl_c(), shown as display:
        try:
            end = join_experiment(experiment, display)
        except KeyboardInterrupt:
            console.print("Interrupted. The trial of this worker is tried by another one.")
            raise typer.Exit(ExitStatus.INTERRUPTED) from None
    console.print(Text(f"Ended: {end.reason}. `autotune run` gives the answer."), soft_wrap=True, highlight=False)
    raise typer.Exit(ExitStatus.INTERRUPTED if end.interrupted else ExitStatus.MET)
