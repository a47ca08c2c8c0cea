"""``autotune init``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from autotune.adapters import get_adapter
from autotune.cli.experiment_file import SCHEMA_NAME, experiment_text
from autotune.cli.files import require_place, write_text
from autotune.cli.proposal import propose
from autotune.cli.stub import stub_text
from autotune.errors import InputError
from autotune.experiment import SCHEMA_FILE, load_experiment


def init(
    model: Annotated[Path, typer.Argument(help="The fp32 model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The experiment file.")] = Path("experiment.yaml"),
    framework: Annotated[str, typer.Option(help="The framework that runs the model.")] = "onnxruntime",
    labels: Annotated[
        str | None, typer.Option(help="Name of the array with labels; without it, models are compared with fp32.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
) -> None:
    """Write a commented experiment file for a model, and beside it a module of functions that it may use."""
    require_place(output)
    stub = output.with_name(f"{_module(output.stem)}.py")
    if output.exists() and not force:
        raise InputError(f"{output} is there already. Choose another name with `-o`, or write over it with `--force`")
    adapter = get_adapter(framework)
    loaded = adapter.load(model)
    space = adapter.space(loaded)
    path = _written_path(model.resolve(), output.resolve().parent)
    proposal = propose(adapter, loaded)
    text = experiment_text(
        loaded,
        proposal,
        path=path,
        framework=framework,
        op_name=space.ops[0].name if space.ops else "conv_0",
        op_type=space.ops[0].op_type if space.ops else "Conv",
        name=output.stem,
        module=stub.stem,
        labels=labels,
    )
    write_text(output, text)
    write_text(output.with_name(SCHEMA_NAME), SCHEMA_FILE.read_text(encoding="utf-8"))
    written = f"Wrote {output}"
    if force or not stub.exists():
        write_text(stub, stub_text(proposal, path=path, framework=framework, experiment=output.name))
        written += f" and {stub}, with functions that it may use"
    say = Console()
    say.print(Text(f"{written}. To be filled in:"), soft_wrap=True)
    for line in load_experiment(output).unfilled:
        say.print(Text(f"  {line}"), soft_wrap=True, highlight=False)
    say.print(Text(f"Then: autotune run {output}"), soft_wrap=True)


def _module(stem: str) -> str:
    """A name under which Python can import what lies beside the experiment file."""
    name = re.sub(r"\W", "_", f"{stem}_functions")
    return name if name.isidentifier() else f"_{name}"


def _written_path(model: Path, directory: Path) -> Path:
    """The model's path as the file has it: relative where the two are near each other and so may move together."""
    relative = Path(os.path.relpath(model, directory))
    return relative if relative.parts.count("..") <= 1 else model
