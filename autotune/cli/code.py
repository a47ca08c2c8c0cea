"""The code that an experiment file names: the command line lists it, and the user may allow more of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, TypeAlias

import typer
from rich.console import Console
from rich.text import Text

from autotune.experiment import Experiment
from autotune.experiment.references import source_of

Trust: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        metavar="PACKAGE",
        help="Allow functions of this package too, beside those in the experiment's folder. Repeatable.",
    ),
]
"""The option of every command that calls functions of an experiment."""


def print_code(console: Console, experiment: Experiment, functions: Iterable[str | None] | None = None) -> None:
    """Print the functions of an experiment, and where their code lies, before any of it is imported.

    Args:
        console: Where to print.
        experiment: The experiment.
        functions: Those that will be called; None: all that it names.

    Raises:
        ExperimentError: One of them may not be called.
    """
    for reference in dict.fromkeys(_functions(experiment) if functions is None else functions):
        if reference is None:
            continue
        place = source_of(reference, experiment.directory, experiment.trust)
        console.print(Text(f"Runs code: {reference} in {place}"), soft_wrap=True, highlight=False)


def _functions(experiment: Experiment) -> tuple[str | None, ...]:
    """The functions that an experiment names."""
    accuracy, train = experiment.evaluation.accuracy, experiment.quantization.train
    datasets = (experiment.calibration.dataset, accuracy.dataset)
    return (
        experiment.model.function,
        *(function for dataset in datasets if dataset is not None for function in dataset.functions),
        accuracy.function,
        None if train is None else train.function,
    )
