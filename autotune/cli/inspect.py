"""``autotune inspect``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autotune.adapter import Adapter, Example, HostFindings, TensorSpec, given_model
from autotune.adapters import get_adapter
from autotune.cli.code import Trust, print_code
from autotune.cli.comparing import compare_models
from autotune.cli.figures import bytes_text
from autotune.errors import InputError
from autotune.experiment import Experiment, load_experiment
from autotune.host import Host, current_host
from autotune.notes import counted
from autotune.source import as_convertible, as_source, source_for
from autotune.space import OpSpace, TuningSpace

_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve")
"""The instruction set extensions that decide how fast int8 is."""

_AXES = {"activations": "activations", "weights": "weights", "calibration": "algorithms"}
"""The choices that come with a precision: our word for people, and the field of the space."""


def inspect(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL...", help="The fp32 model, or an experiment file; two models with --compare."),
    ],
    framework: Annotated[
        str | None, typer.Option(help="The framework that runs it; by default the experiment's, or onnxruntime.")
    ] = None,
    trust: Trust = None,
    ops: Annotated[bool, typer.Option("--ops", help="List every op, not only the types.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Show where the activations of two models part.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="With --compare: an .npz archive or an experiment; else random numbers.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="With --compare: samples to run.")] = 8,
) -> None:
    """Show what can be quantized in a model on this machine, or with --compare where two models part."""
    if compare:
        compare_models(models, framework or "onnxruntime", data, samples, trust or (), everything=ops)
        return
    if len(models) != 1 or data is not None:
        raise InputError(
            f"`inspect` takes one model, but got {len(models)}; two models and `--data` go with `--compare`"
        )
    (model,) = models
    experiment = load_experiment(model, trust=trust or ()) if model.suffix in (".yaml", ".yml") else None
    if experiment is not None:
        print_code(Console(), experiment, [experiment.model.function, experiment.calibration.dataset.function])
    for number, each in enumerate(_frameworks(experiment, framework)):
        if number:
            Console().print()
        _show(*_loaded(model, experiment, each), ops)


def _frameworks(experiment: Experiment | None, asked: str | None) -> Sequence[str]:
    """The frameworks to show a model on: the one that is asked for, or the experiment's."""
    if asked is not None or experiment is None:
        return (asked or "onnxruntime",)
    return experiment.runtimes or (experiment.model.framework,)


def _show(adapter: Adapter[Any], loaded: Any, name: str, ops: bool) -> None:
    """Print what can be quantized in a model with one adapter."""
    space = adapter.space(loaded)
    console = Console()

    def say(text: Text | str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    say(f"{name} on {adapter.name} ({bytes_text(given_model(adapter, loaded).size_bytes)})")
    say(f"  inputs   {_tensors(loaded.inputs)}")
    say(f"  outputs  {_tensors(loaded.outputs)}")
    say(f"  host     {_host(current_host())}")
    for finding in adapter.host_findings() if isinstance(adapter, HostFindings) else ():
        say(f"  measured {finding}")
    console.print()
    console.print(_type_table(space))
    console.print(_choice_table(space))
    if ops:
        console.print(_op_table(space))
    say(_space_size(space))
    for note in loaded.notes:
        say(Text("Note: ", style="yellow").append(note, style="default"))


def _loaded(path: Path, experiment: Experiment | None, framework: str) -> tuple[Adapter[Any], Any, str]:
    """The adapter, the model and its name; an experiment also says how a model is made that is no file."""
    adapter = get_adapter(framework)
    if experiment is None:
        return adapter, adapter.load(source_for(adapter, as_convertible(path), None)), str(path)
    model = experiment.model.open(experiment.directory, experiment.trust)
    own, loader = as_source(model), experiment.calibration.dataset.open(experiment.directory, experiment.trust)
    example = Example(loader if own is None else own.loader(loader), experiment.evaluation.performance.batch_axis)
    source = source_for(adapter, as_convertible(model) if own is None else own, example)
    return adapter, adapter.load(source, example), experiment.model.name


def _tensors(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {shape_text(spec)}" for spec in specs)


def shape_text(spec: TensorSpec) -> str:
    """A shape as ``(batch, 3, 32, 32)``; a dimension without a name is ``?``."""
    return "(" + ", ".join("?" if dim is None else str(dim) for dim in spec.shape) + ")"


def _host(host: Host) -> str:
    known = [feature for feature in _FEATURES if feature in host.features]
    cores = counted(host.physical_cores or host.logical_cores, "core")
    saturates = "; u8 x s8 products saturate here: weights are bounded" if host.saturates_u8s8 else ""
    return f"{host.cpu}, {cores}, {' '.join(known) or 'no int8 extensions'}{saturates}"


def _type_table(space: TuningSpace) -> Table:
    table = Table(title="What can be quantized here", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.add_column("Op type")
    table.add_column("Ops", justify="right")
    table.add_column("Precision")
    for op_type, members in _by_type(space).items():
        precisions = dict.fromkeys(str(within.precision) for op in members for within in op.precisions)
        table.add_row(op_type, str(len(members)), ", ".join(precisions))
    return table


def _choice_table(space: TuningSpace) -> Table:
    """The values that there are for each choice; types with the same values share a row."""
    table = Table(
        title="What there is to choose, preferred first", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold"
    )
    table.add_column("For")
    table.add_column("Op types")
    table.add_column("Values")
    for heading, axis in _AXES.items():
        rows: dict[str, list[str]] = {}
        for op_type, members in _by_type(space).items():
            rows.setdefault(_values(members, axis), []).append(op_type)
        for values, op_types in rows.items():
            if values:
                shared = len(op_types) == len(_by_type(space)) > 1
                table.add_row(heading, "all" if shared else ", ".join(op_types), values)
    for name in space.recipe.names:
        choices = space.recipe[name]
        if len(choices) > 1:
            table.add_row(name, "the graph", ", ".join(str(choice).lower() for choice in choices))
    return table


def _op_table(space: TuningSpace) -> Table:
    table = Table(title="Ops in graph order", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.add_column("Op", overflow="fold")
    for heading in ("Type", "Precision"):
        table.add_column(heading)
    table.add_column("Configurations", justify="right")
    for op in space.ops:
        precisions = ", ".join(str(within.precision) for within in op.precisions)
        table.add_row(Text(op.name), Text(op.op_type), precisions, str(op.size))  # a name may look like markup
    return table


def _by_type(space: TuningSpace) -> dict[str, list[OpSpace]]:
    """The ops of each type, the most frequent type first."""
    by_type: dict[str, list[OpSpace]] = {}
    for op in space.ops:
        by_type.setdefault(op.op_type, []).append(op)
    return dict(sorted(by_type.items(), key=lambda item: -len(item[1])))


def _values(ops: Sequence[OpSpace], axis: str) -> str:
    """The alternatives that some ops offer together on one axis."""
    spaces = (within for op in ops for within in op.precisions)
    return ", ".join(dict.fromkeys(str(value) for within in spaces for value in getattr(within, axis)))


def _space_size(space: TuningSpace) -> str:
    tunable = len(space.tunable)
    if tunable == 0:
        return "No op of this model can be quantized here."
    # The number itself has thousands of digits for large models.
    digits = sum(math.log10(op.size) for op in space.ops) + math.log10(space.recipe.size)
    size = f"about 10^{digits:.0f}" if digits >= 6 else f"{space.size:,}"
    return f"Ops that have a choice: {tunable} of {len(space.ops)}. Configurations: {size}."
