"""``autotune schema``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.files import write_text
from autotune.experiment.json_schema import json_schema_text


def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it to this file.")] = None,
) -> None:
    """Print the JSON Schema of experiment files, for editors."""
    if output is None:
        typer.echo(json_schema_text(), nl=False)
    else:
        write_text(output, json_schema_text())
