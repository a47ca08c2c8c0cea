"""``autotune export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from autotune.cli.code import Trust, print_code
from autotune.cli.files import listed, require_place
from autotune.experiment import load_experiment
from autotune.experiment.run import export_experiment


def export(
    experiment_file: Annotated[Path, typer.Argument(metavar="EXPERIMENT.yaml", help="The experiment that was run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to save the model.")],
    trial: Annotated[int | None, typer.Option(help="Number of the trial; the answer by default.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the file, as the run did. Repeatable."),
    ] = None,
    trust: Trust = None,
) -> None:
    """Save the model of any trial of a run, as it was measured, made again of its config."""
    require_place(output, folder=True)
    experiment = load_experiment(experiment_file, overrides or (), trust or ())
    console = Console()
    print_code(console, experiment, (experiment.model.function, *experiment.calibration.dataset.functions))
    saved = export_experiment(experiment, trial).save_files(output)
    console.print(Text(f"Model:  {listed(saved)}"), soft_wrap=True, highlight=False)
