"""``autotune inspect --compare``: the layers in which two models part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autotune.adapter import Adapter, Feeds
from autotune.adapters import get_adapter
from autotune.cli.figures import decibels_text
from autotune.comparison import LayerDifference, differences
from autotune.errors import InputError
from autotune.notes import counted

_SHOWN = 15
"""Rows of the table; more are shown on demand."""

_WORTH_NAMING_DB = 1.0
"""Fall of the SQNR in one op from which it is named."""


def compare_models(
    models: Sequence[Path],
    framework: str,
    data: Path | None,
    samples: int,
    trust: Sequence[str],
    *,
    everything: bool,
) -> None:
    """Print the layers in which the SQNR falls most, or all of them, in the order of the graph.

    Args:
        models: Two files.
        framework: Name of the adapter.
        data: Archive or experiment with the samples; None: random numbers.
        samples: Samples to run at the most.
        trust: Packages whose functions an experiment may name.
        everything: Whether to print all layers.

    Raises:
        InputError: The models or the data cannot be used.
    """
    if len(models) != 2:
        raise InputError(f"`--compare` needs two models, as in `--compare fp32.onnx tuned.onnx`, but got {len(models)}")
    adapter = get_adapter(framework)
    first, second = (adapter.load(path) for path in models)
    batches, remark = _batches(adapter, first, data, samples, trust)
    found = differences(adapter, first, second, batches)
    console = Console()
    console.print(Text(f"{models[1]} against {models[0]}"), soft_wrap=True, highlight=False)
    console.print(_table(found if everything else _most(found)))
    left = len(found) - _SHOWN
    more = f" {counted(left, 'more layer')}: `--ops` lists all." if not everything and left > 0 else ""
    console.print(Text(f"{_parting(found)} {remark}{more}"), soft_wrap=True, highlight=False)


def _batches(
    adapter: Adapter[Any], model: Any, data: Path | None, samples: int, trust: Sequence[str]
) -> tuple[list[Feeds], str]:
    if data is None:
        from autotune.cli.proposal import propose  # noqa: PLC0415  it runs the model

        feeds = propose(adapter, model).feeds
        if feeds is None:
            raise InputError("No random inputs were found that the model takes: give samples with `--data`")
        return [feeds], "The inputs were random numbers, perhaps out of range: `--data` gives real ones."
    from autotune.cli.check import read_batches  # noqa: PLC0415  it imports much

    batches = read_batches(data, samples, model.inputs, trust)
    return [batch.feeds for batch in batches], f"{counted(sum(batch.size for batch in batches), 'sample')}."


def _most(found: Sequence[LayerDifference]) -> list[LayerDifference]:
    """The layers in which the SQNR falls most, or is lowest where no fall is known, in the order of the graph."""
    worst = sorted(found, key=lambda each: (-(each.drop_db or 0.0), each.sqnr_db))[:_SHOWN]
    return [each for each in found if each in worst]


def _table(rows: Sequence[LayerDifference]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("Op", overflow="fold")
    table.add_column("Type")
    table.add_column("SQNR", justify="right", no_wrap=True)
    table.add_column("Falls by", justify="right", no_wrap=True)
    for row in rows:
        fall = "" if row.drop_db is None else f"{row.drop_db:.1f} dB"
        table.add_row(Text(row.op), row.op_type, decibels_text(row.sqnr_db), fall)
    return table


def _parting(found: Sequence[LayerDifference]) -> str:
    """Where they part, in a sentence."""
    first = next((each for each in found if math.isfinite(each.sqnr_db)), None)
    if first is None:
        return f"None of {counted(len(found), 'tensor')} that both have differs."
    falls = [each for each in found if each.drop_db is not None and each.drop_db >= _WORTH_NAMING_DB]
    worst = max(falls, key=lambda each: each.drop_db or 0.0, default=None)
    fall = "" if worst is None else f", and most is lost in {worst.op} ({worst.drop_db:.1f} dB)"
    return f"They part at {first.op}{fall}; the last tensor has {decibels_text(found[-1].sqnr_db)}."
