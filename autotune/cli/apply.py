"""``autotune apply``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from autotune.cli.code import Trust, print_code
from autotune.cli.files import listed, require_place
from autotune.experiment import load_experiment
from autotune.experiment.run import apply_experiment
from autotune.notes import counted


def apply(
    experiment_file: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT.yaml", help="Names the model and the calibration data.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to save the quantized model.")],
    config: Annotated[
        str | None,
        typer.Option(
            help="A workspace, WORKSPACE:TRIAL, a tuned model or a config as JSON; by default the workspace of the "
            "experiment."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Replace a value of the file: model.path=new.onnx. Repeatable."
        ),
    ] = None,
    trust: Trust = None,
) -> None:
    """Quantize a model by a stored config, calibrated anew and without a search: for weights trained since.

    Nothing is measured. `autotune run --start-from CONFIG` confirms or refutes the config by one evaluation.
    """
    require_place(output, folder=True)
    experiment = load_experiment(experiment_file, overrides or (), trust or ())
    console = Console()
    print_code(console, experiment, (experiment.model.function, *experiment.calibration.dataset.functions))
    quantized = apply_experiment(experiment, experiment.workspace if config is None else config)
    for note in quantized.notes:
        console.print(Text(f"Note: {note}"), soft_wrap=True, highlight=False)
    saved = quantized.save_files(output)
    console.print(
        Text(f"Model:  {listed(saved)}, {counted(len(quantized.config.ops), 'op')} quantized; nothing was measured"),
        soft_wrap=True,
        highlight=False,
    )
