"""``autotune check``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autotune.adapter import Adapter, Execution, PortabilityCheck, TensorSpec, given_model
from autotune.adapters import get_adapter
from autotune.cli.code import Trust, print_code
from autotune.cli.figures import bytes_text, decibels_text, number_text
from autotune.data import Batch, iterate, limit
from autotune.emulation import ADVICE, EmulatedRun, find_emulator
from autotune.errors import DataError, InputError
from autotune.evaluation import Metric, create_metric
from autotune.evaluation.accuracy.agreement import Outputs, changed_share, figure, sqnr_db
from autotune.experiment import load_experiment
from autotune.experiment.archive import member_names
from autotune.experiment.datasets import Dataset
from autotune.experiment.run import metrics_of
from autotune.host import current_host
from autotune.notes import counted

_NAMED = 20
"""Ops at risk that are listed unless all are asked for."""

_BATCH = 50
"""Samples of an archive that are run in one call, where the model takes any number."""

_LABELS = "labels"
"""The array of an archive that is no input."""


def check(
    model: Annotated[Path, typer.Argument(help="A tuned model.")],
    cpus: Annotated[
        list[str] | None,
        typer.Option("--cpu", metavar="NAME", help="A CPU as QEMU calls it, Haswell unless given. Repeatable."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Samples to run it on: an experiment file, or an .npz with the inputs by name and `labels`."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many of them; an emulated CPU is slow.")] = 200,
    trust: Trust = None,
    ops: Annotated[bool, typer.Option("--ops", help="List every op that can saturate.")] = False,
    framework: Annotated[str, typer.Option(help="The framework that runs it.")] = "onnxruntime",
) -> None:
    """Tell whether a tuned model is as accurate on other CPUs: which ops can saturate there, and how outputs change."""
    console = Console()

    def say(text: Text | str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    emulator, wanted = find_emulator(), cpus or ["Haswell"]
    if emulator is not None:
        for cpu in wanted:
            emulator.require(cpu)
    adapter = get_adapter(framework)
    loaded = adapter.load(model)
    source = None if data is None else _read_source(data, samples, loaded.inputs, trust or ())
    say(f"{model} ({bytes_text(given_model(adapter, loaded).size_bytes)})")
    say(_risk(adapter, loaded, framework, everything=ops))
    if source is None:
        say("`--data` (an experiment file or an .npz) lets it run as another CPU would.")
    elif emulator is None:
        say(f"It cannot run as another CPU would here: {ADVICE}, on Linux and x86.")
    else:
        with console.status("Running here") as status:
            rows = _rows(adapter, loaded, source)
            for cpu in wanted:

                def told(done: int, cpu: str = cpu) -> None:
                    status.update(f"Running as {cpu}: batch {done} of {len(source.batches)}")

                run = emulator.run(model, framework, [b.feeds for b in source.batches], cpu, on_progress=told)
                rows.append(_emulated_row(cpu, run))
        _print_rows(console, rows, source)


def _risk(adapter: Adapter[Any], loaded: Any, framework: str, *, everything: bool) -> str:
    if not isinstance(adapter, PortabilityCheck):
        return f"{framework} does not say which ops can saturate."
    names = list(adapter.saturating_ops(loaded))
    if not names:
        return "No op can saturate: where products are summed in 16 bits they are the same."
    shown = names if everything else names[:_NAMED]
    more = f" and {len(names) - len(shown)} more (`--ops` lists them)" if len(names) > len(shown) else ""
    ops = f"{len(names)} op{'s' if len(names) > 1 else ''}"
    return f"{ops} can saturate on x86 CPUs without VNNI: {', '.join(shown)}{more}"


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Data that a model is run on.

    Attributes:
        batches: The samples.
        metrics: Metrics to compute.
        fp32: The file of the model that it was tuned from.
        remark: A remark on the figures for the reader.
    """

    batches: Sequence[Batch]
    metrics: Sequence[Metric]
    fp32: Path | None = None
    remark: str | None = None


def _read_source(path: Path, samples: int, inputs: Sequence[TensorSpec], trust: Sequence[str]) -> _Source:
    if path.suffix in (".yaml", ".yml"):
        return _from_experiment(path, samples, inputs, trust)
    if path.suffix == ".npz":
        return _from_archive(path, samples, inputs)
    raise InputError(f"`--data` must be an experiment file (.yaml) or a NumPy archive (.npz), but got {path}")


def read_batches(path: Path, samples: int, inputs: Sequence[TensorSpec], trust: Sequence[str] = ()) -> Sequence[Batch]:
    """Samples of an experiment or a NumPy archive.

    Raises:
        InputError: The file is neither, or does not fit the model.
    """
    return _read_source(path, samples, inputs, trust).batches


def _from_experiment(path: Path, samples: int, inputs: Sequence[TensorSpec], trust: Sequence[str]) -> _Source:
    experiment = load_experiment(path, trust=trust)
    accuracy = experiment.evaluation.accuracy
    remark = None
    if accuracy.dataset is None:
        remark = "The experiment scores by a function of its own, which reads its own data: outputs are compared alone."
    dataset = accuracy.dataset or experiment.calibration.dataset
    print_code(Console(), experiment, [dataset.function])
    labelled = dataset.labelled if dataset.function is None else None
    batches = _first(dataset.open(experiment.directory, experiment.trust), samples, inputs, labelled=labelled)
    fp32 = experiment.model.path
    if fp32 is not None and not fp32.exists():
        fp32 = None
    return _Source(batches=batches, metrics=metrics_of(experiment), fp32=fp32, remark=remark)


def _from_archive(path: Path, samples: int, inputs: Sequence[TensorSpec]) -> _Source:
    arrays, wanted = member_names(path), [spec.name for spec in inputs]
    others = [name for name in arrays if name != _LABELS]
    by_name: str | dict[str, str]
    if set(wanted) <= set(others):
        by_name = {name: name for name in wanted}
    elif len(wanted) == len(others) == 1:
        by_name = others[0]
    else:
        raise DataError(
            f"{path} must have an array for each input of the model ({', '.join(wanted)}), but has "
            f"{', '.join(arrays) or 'none'}. An experiment file can name them otherwise"
        )
    labelled = _LABELS in arrays
    section = {"path": path.absolute(), "inputs": by_name, **({"labels": _LABELS} if labelled else {})}
    first = inputs[0].shape[0] if inputs[0].shape else 1
    size = first if isinstance(first, int) else min(_BATCH, samples)
    dataset = Dataset.model_validate({"npz": section, "batch_size": size}, context={"directory": Path()})
    batches = _first(dataset.open(Path()), samples, inputs, labelled=labelled)
    return _Source(batches=batches, metrics=[create_metric("topk")] if labelled else [])


def _first(
    loader: Iterable[object], samples: int, inputs: Sequence[TensorSpec], *, labelled: bool | None
) -> list[Batch]:
    return list(limit(iterate(loader, inputs, labelled=labelled), samples))


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A line of the table.

    Attributes:
        name: The model, and the CPU it ran on.
        outputs: Outputs of the model.
        saturates: Whether the CPU sums products in 16 bits.
        remark: A remark for the reader.
    """

    name: str
    outputs: Outputs
    saturates: bool | None = None
    remark: str | None = None


def _rows(adapter: Adapter[Any], loaded: Any, source: _Source) -> list[_Row]:
    """The fp32 model, where it is known, and the tuned one on this CPU."""
    host = current_host()
    rows = [_Row(name=f"here: {host.cpu}", outputs=_run(adapter, loaded, source), saturates=host.saturates_u8s8)]
    if source.fp32 is not None:
        rows.insert(0, _Row(name="fp32 here", outputs=_run(adapter, adapter.load(source.fp32), source)))
    return rows


def _run(adapter: Adapter[Any], model: Any, source: _Source) -> Outputs:
    runner = adapter.runner(model, Execution())
    return [runner(batch.feeds) for batch in source.batches]


def _emulated_row(cpu: str, run: EmulatedRun) -> _Row:
    remark = None
    if run.without_avx512:
        remark = f"QEMU leaves out AVX-512 and VNNI: {cpu} was run as a CPU without them."
    return _Row(name=cpu, outputs=run.outputs, saturates=run.host.saturates_u8s8, remark=remark)


def _print_rows(console: Console, rows: Sequence[_Row], source: _Source) -> None:
    reference, base = rows[0].outputs, "fp32" if source.fp32 is not None else "here"
    changed = [changed_share(reference, row.outputs) for row in rows]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("CPU", overflow="fold")
    headings = ["16-bit sums", "SQNR", *(["Changed"] if changed[0] is not None else [])]
    for heading in [*headings, *(metric.name for metric in source.metrics)]:
        table.add_column(heading, justify="right", no_wrap=True)
    for index, (row, share) in enumerate(zip(rows, changed, strict=True)):
        cells = ["" if row.saturates is None else "yes" if row.saturates else "no"]
        cells.append("" if index == 0 else decibels_text(sqnr_db(reference, row.outputs)))
        if share is not None:
            cells.append("" if index == 0 else f"{100 * share:.1f} %")
        cells += [number_text(figure(each, row.outputs, source.batches, reference)) for each in source.metrics]
        table.add_row(Text(row.name), *cells)
    console.print(table)
    samples = sum(batch.size for batch in source.batches)
    remarks = [f"{counted(samples, 'sample')}. SQNR and changed answers are against {base}.", source.remark]
    for remark in (*remarks, *(row.remark for row in rows)):
        if remark is not None:
            console.print(remark, soft_wrap=True, highlight=False, markup=False)
