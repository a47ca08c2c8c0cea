"""The commands by name. A command's module is imported when the command is called: help alone needs none of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import typer
import typer.core

COMMANDS = {
    "init": "Write a commented experiment file for a model, and beside it a module of functions that it may use.",
    "inspect": "Show what can be quantized in a model on this machine, or with --compare where two models part.",
    "run": "Tune a model as an experiment file says. The same command continues a run that was ended.",
    "worker": "Take part in a run of the same experiment, on this machine or on another one.",
    "apply": "Quantize a model by a stored config, calibrated anew and without a search: for weights trained since.",
    "export": "Save the model of any trial of a run, as it was measured, made again of its config.",
    "report": "Show what a run found, and write a report for the browser.",
    "explain": "Tell why an op is quantized or not, and what that costs in accuracy and in time.",
    "diff": "Show in which ops and recipes two configs differ, and what was measured of each.",
    "benchmark": "Compare the latency of models, which run in turn so that what slows the machine slows all.",
    "check": "Tell whether a tuned model is as accurate on other CPUs: which ops can saturate there, and how outputs "
    "change.",
    "converter": "Make and list the environments of converters of other frameworks' models to ONNX.",
    "schema": "Print the JSON Schema of experiment files, for editors.",
}
"""By name, what a command does: the first line of the help of the function of that name, in the module of that name."""


class LazyCommands(typer.core.TyperGroup):
    """A group of :data:`COMMANDS`, of which it imports the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the command itself in the place of the one that only has its name."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else load_command(name), rest


def load_command(name: str) -> Any:
    """The command of a name, with its options and arguments."""
    found = command_function(name)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    single.command(name)(found)
    return typer.main.get_command(single)


def command_function(name: str) -> Callable[..., None] | typer.Typer:
    """The function that does what a command says, or its own commands."""
    function: Callable[..., None] | typer.Typer = getattr(importlib.import_module(f"autotune.cli.{name}"), name)
    return function


def add_commands(app: typer.Typer) -> None:
    """Give an app, whose group is :class:`LazyCommands`, the names and summaries of all commands."""
    for name, summary in COMMANDS.items():

        def stub() -> None:
            """Stand for the command in the list."""

        app.command(name, help=summary)(stub)
