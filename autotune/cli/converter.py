"""``autotune converter``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from autotune.adapters import CONVERTERS, get_converter
from autotune.conversion import install as make
from autotune.conversion import interpreter_of
from autotune.errors import MissingDependencyError

converter = typer.Typer(
    help="Make and list the environments of converters of other frameworks' models to ONNX.", no_args_is_help=True
)


@converter.command()
def install(name: Annotated[str, typer.Argument(help=f"The framework: {', '.join(CONVERTERS)}.")]) -> None:
    """Make an environment for a framework's converter in the user's cache folder, unless one has it already."""
    console = Console()
    make(get_converter(name).tool, lambda line: console.print(line, soft_wrap=True, highlight=False, markup=False))


@converter.command("list")
def list_all() -> None:
    """Tell which interpreter each framework's converter runs with."""
    console = Console()
    for name in CONVERTERS:
        try:
            found = str(interpreter_of(get_converter(name).tool))
        except MissingDependencyError as error:
            found = str(error)
        console.print(f"{name}: {found}", soft_wrap=True, highlight=False, markup=False)
