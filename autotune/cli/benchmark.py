"""``autotune benchmark``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autotune.adapter import Adapter, Feeds, TensorSpec, given_model
from autotune.adapters import get_adapter
from autotune.batch import BatchAxes, declared_axes
from autotune.cli.figures import bytes_text, number_text, speedup_text
from autotune.cli.inspect import shape_text
from autotune.errors import InputError
from autotune.evaluation import (
    LatencyComparison,
    LatencyOptions,
    Throughput,
    ThroughputOptions,
    compare_latency,
    measure_throughput,
)
from autotune.evaluation.latency import Call, SystemClock
from autotune.evaluation.latency.sessions import open_sessions

_MOST_NUMBERS = 10**9
"""In an input: 8 GB while they are drawn."""


def benchmark(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL MODEL...", help="The first one is compared against.")],
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads inside of one call.")] = 1,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, max=65_536, help="Samples in one call; 1 unless given, or unless the models fix another."),
    ] = None,
    warmup: Annotated[int, typer.Option(min=0, help="Calls before the first one that counts.")] = 10,
    shapes: Annotated[
        list[str] | None,
        typer.Option(
            "--shape", metavar="INPUT=1,3,224,224", help="Shape of an input with free dimensions. Repeatable."
        ),
    ] = None,
    instances: Annotated[
        int | None,
        typer.Option(min=1, help="Measure throughput too: processes that run a model at once, each on its own cores."),
    ] = None,
    cores_per_instance: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Cores, and threads, of each of these processes; 1 unless given."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random inputs.")] = 0,
    framework: Annotated[str, typer.Option(help="The framework that runs the models.")] = "onnxruntime",
) -> None:
    """Compare the latency of models, which run in turn so that what slows the machine slows all."""
    if len(models) < 2:
        raise InputError(f"A comparison needs two models or more, but got {len(models)}")
    if cores_per_instance is not None and instances is None:
        raise InputError("`--cores-per-instance` goes with `--instances`, which says how many processes there are")
    adapter = get_adapter(framework)
    loaded = [given_model(adapter, adapter.load(path)) for path in models]
    axes = declared_axes(loaded[0].inputs, loaded[0].outputs)
    feeds = _random_feeds(loaded[0].inputs, axes, batch_size or 1, _parse_shapes(shapes or ()), seed)
    samples = _samples(models[0], axes, feeds, batch_size)
    options = LatencyOptions(threads=threads, batch_size=samples, warmup=warmup)
    serving = _serving(instances, cores_per_instance or 1, samples, warmup)
    for path, model in zip(models[1:], loaded[1:], strict=True):
        _require_same_inputs(models[0], loaded[0].inputs, path, model.inputs)
    calls = [_sessions(adapter, model, options, feeds) for model in loaded]
    console = Console()
    with console.status("Measuring"):
        comparisons = [compare_latency(calls[0], call, options, seed=seed) for call in calls[1:]]
    throughputs = []
    if serving is not None:
        with console.status("Measuring throughput"):
            throughputs = measure_throughput(adapter, loaded, feeds, serving)
    sizes = [model.size_bytes for model in loaded]
    console.print(_table(models, sizes, comparisons))
    if serving is not None:
        _print_throughput(console, models, throughputs, serving)
    if not all(comparison.decided for comparison in comparisons):
        _print_undecided(console, options)


def _table(models: Sequence[Path], sizes: Sequence[int], comparisons: Sequence[LatencyComparison]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("Model", overflow="fold")
    for heading in ("p50 ms", "p90 ms", "p99 ms", "Speedup", "Size"):
        table.add_column(heading, justify="right", no_wrap=True)
    times = [comparisons[0].baseline_percentiles, *(comparison.candidate_percentiles for comparison in comparisons)]
    speedups = ["1.00x", *(speedup_text(comparison.speedup, comparison.interval) for comparison in comparisons)]
    distinct = len({path.name for path in models}) == len(models)
    for path, time, speedup, size in zip(models, times, speedups, sizes, strict=True):
        figures = (number_text(value, 3) for value in (time.p50_ms, time.p90_ms, time.p99_ms))
        table.add_row(Text(path.name if distinct else str(path)), *figures, speedup, bytes_text(size))
    return table


def _serving(instances: int | None, cores: int, samples: int, warmup: int) -> ThroughputOptions | None:
    """How throughput is measured; None where it is not asked for."""
    if instances is None:
        return None
    return ThroughputOptions(instances=instances, cores_per_instance=cores, batch_size=samples, warmup=warmup)


def _print_undecided(console: Console, options: LatencyOptions) -> None:
    console.print(
        f"A speedup whose interval is wider than {options.interval_width:.0%} either way is undecided: the machine "
        "is busy, or sessions of one model differ by more than that.",
        highlight=False,
    )


def _print_throughput(
    console: Console, models: Sequence[Path], throughputs: Sequence[Throughput], serving: ThroughputOptions
) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("Throughput", overflow="fold")
    table.add_column("Samples/s", justify="right", no_wrap=True)
    table.add_column("Slowest and fastest round", justify="right", no_wrap=True)
    for path, found in zip(models, throughputs, strict=True):
        table.add_row(Text(path.name), f"{found.samples_per_s:,.0f}", f"{found.low:,.0f} to {found.high:,.0f}")
    console.print(table)
    cores = f"{serving.cores_per_instance} core{'s' if serving.cores_per_instance > 1 else ''}"
    where = f"on {cores} of its own" if throughputs[0].pinned else f"with {cores}, which this system cannot reserve"
    console.print(
        f"{serving.instances} instance{'s at once, each' if serving.instances > 1 else ''} {where}.", highlight=False
    )


def _sessions(adapter: Adapter[Any], model: Any, options: LatencyOptions, feeds: Feeds) -> list[Call]:
    runner = adapter.runner(model, options.execution)
    runner(feeds)
    return open_sessions(
        runner,
        lambda: adapter.runner(model, options.execution),
        [feeds],
        options,
        size_bytes=model.size_bytes,
        fewest=2,
        clock=SystemClock(options.threads),
    )


def _parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for text in texts:
        name, _, dims = text.rpartition("=")
        parts = dims.split(",")
        if not name or not all(part.isdecimal() and len(part) < 10 for part in map(str.strip, parts)):
            raise InputError(f"A shape must read like `data=1,3,224,224`, but got {text!r}")
        shapes[name] = tuple(int(part) for part in parts)
    return shapes


def _random_feeds(
    inputs: Sequence[TensorSpec],
    axes: BatchAxes,
    batch_size: int,
    shapes: Mapping[str, tuple[int, ...]],
    seed: int,
) -> Feeds:
    """Random inputs: latency does not depend on the values, as long as indices stay in small ranges."""
    names = [spec.name for spec in inputs]
    for name in shapes:
        if name not in names:
            raise InputError(f"`--shape` must name inputs of the model ({', '.join(names)}), but got {name!r}")
    random = np.random.default_rng(seed)
    feeds: dict[str, Any] = {}
    for spec in inputs:
        shape = _taken(spec, shapes[spec.name]) if spec.name in shapes else _shape(spec, axes, batch_size)
        _require_room(spec, shape)
        if spec.dtype.kind == "f":
            feeds[spec.name] = random.standard_normal(shape).astype(spec.dtype)
        else:
            feeds[spec.name] = random.integers(0, 2, shape).astype(spec.dtype)
    return feeds


def _taken(spec: TensorSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that the user gives for an input, once it is one that this input has."""
    fits = len(shape) == len(spec.shape) and all(
        not isinstance(dim, int) or dim == given for dim, given in zip(spec.shape, shape, strict=True)
    )
    if not fits or not all(shape):
        given = ",".join(map(str, shape))
        raise InputError(
            f"`--shape {spec.name}={given}` must be a shape that the input has, with 1 or more in each axis, but it is "
            f"{shape_text(spec)}"
        )
    return shape


def _require_room(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    count = math.prod(shape)
    if count > _MOST_NUMBERS:
        raise InputError(
            f"An input must have at most {_MOST_NUMBERS:,} numbers, but {spec.name!r} of shape {list(shape)} has "
            f"{count:,}. Give a smaller `--shape` or `--batch-size`"
        )


def _samples(path: Path, axes: BatchAxes, feeds: Feeds, batch_size: int | None) -> int:
    """How many samples a call has, which must be the number that the user gives."""
    samples = axes.size(feeds)
    if batch_size not in (None, samples):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
        raise InputError(
            f"`--batch-size {batch_size}` needs inputs whose batch is free, but a call of {path} has {samples} "
            f"({shapes}). Leave `--batch-size` out, or export the model with a free batch axis"
        )
    return samples


def _shape(spec: TensorSpec, axes: BatchAxes, batch_size: int) -> tuple[int, ...]:
    shape = [dim if isinstance(dim, int) else None for dim in spec.shape]
    batch = axes.inputs.get(spec.name)
    if batch is not None and shape[batch] is None:
        shape[batch] = batch_size
    fixed = tuple(dim for dim in shape if dim is not None)
    if len(fixed) != len(shape):
        raise InputError(
            f"Input {spec.name!r} has free dimensions besides a batch: {shape_text(spec)}. "
            f"Give its shape, as in `--shape {spec.name}={','.join('1' if d is None else str(d) for d in shape)}`"
        )
    return fixed


def _require_same_inputs(first: Path, expected: Sequence[TensorSpec], path: Path, inputs: Sequence[TensorSpec]) -> None:
    wanted, got = ({spec.name: (spec.dtype, len(spec.shape)) for spec in specs} for specs in (expected, inputs))
    if wanted != got:
        raise InputError(
            f"All models must have the same inputs, but {first} has "
            f"{', '.join(f'{s.name} {s.dtype} {shape_text(s)}' for s in expected)} and {path} has "
            f"{', '.join(f'{s.name} {s.dtype} {shape_text(s)}' for s in inputs)}"
        )
