"""``tune`` on models that people ship inside Python packages, beside ONNX Runtime's own files of the same models.

Run from the root of the repository: ``python benchmarks/shipped.py --folder ../shipped --timeout 240``. Installs the
packages that ``shipped_models.py`` names into a folder of their own, without their dependencies. Prints one table:
verdict, loss and speed of what ``tune`` returns in the time given, loss and speed of the fastest of ONNX Runtime's own
static and dynamic files that keeps the target (all of them in one race with fp32), and the wall time of ``tune``.
Losses are those of the saved files over all evaluation samples. A line above the table says why a run ended as it did,
and one why a file of ONNX Runtime's own is not among those: it failed, or took longer than ``--own-limit`` seconds, as
percentile calibration does, which keeps every activation of every sample.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime as ort
import psutil
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from shared import argument_parser, print_table, session, write_result
from shipped_models import MODELS, Array, Batches, Shipped, install

import autotune
from autotune.evaluation import LatencyOptions, race_latency

TARGET = 0.01
"""Target: relative loss."""

_MEMORY_SHARE = 0.8
"""Share of the free memory that the process may take that makes one of ONNX Runtime's own files."""

Feeds = Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A file and what came of it.

    Attributes:
        what: How it was made.
        path: The file.
        loss: Relative, over all evaluation samples.
        speed: Speedup over fp32; None where it was not raced.
    """

    what: str
    path: Path
    loss: float
    speed: float | None = None


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime ships no types
    def __init__(self, batches: Batches) -> None:
        self._batches = iter(batches)

    def get_next(self) -> Feeds | None:
        batch = next(self._batches, None)
        return None if batch is None else dict(batch[0])


STATIC: dict[str, dict[str, Any]] = {
    "static u8s8 per channel": {"per_channel": True},
    "static u8s8 per channel, reduced range": {"per_channel": True, "reduce_range": True},
    "static u8s8 per channel, percentile": {
        "per_channel": True,
        "calibrate_method": CalibrationMethod.Percentile,
        "extra_options": {"CalibPercentile": 99.999},
    },
    "static u8u8": {"weight_type": QuantType.QUInt8},
}
DYNAMIC: dict[str, dict[str, Any]] = {
    "dynamic u8": {"weight_type": QuantType.QUInt8},
    "dynamic s8 per channel": {"weight_type": QuantType.QInt8, "per_channel": True},
    "dynamic s8 per channel, MatMul": {
        "weight_type": QuantType.QInt8,
        "per_channel": True,
        "op_types_to_quantize": ["MatMul", "Gemm"],
    },
}


@dataclass(frozen=True, kw_only=True)
class Way:
    """One of ONNX Runtime's own ways to quantize a model."""

    name: str
    options: Mapping[str, Any]
    dynamic: bool

    def file(self, source: Path, calibration: Batches, target: Path) -> None:
        """Write the file; runs in a process of its own, which may be ended."""
        ort.set_default_logger_severity(3)
        if self.dynamic:
            quantize_dynamic(source, target, **self.options)
            return
        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, **self.options}
        quantize_static(source, target, _Reader(calibration), quant_format=QuantFormat.QDQ, **types)


WAYS = [
    *(Way(name=name, options=options, dynamic=False) for name, options in STATIC.items()),
    *(Way(name=name, options=options, dynamic=True) for name, options in DYNAMIC.items()),
]


class NotMade(Exception):
    """Why there is no file; the message is a line."""


def in_time(way: Way, source: Path, calibration: Batches, target: Path, limit_s: float) -> None:
    """Write a file in a process that is ended where it takes too long or too much memory.

    ONNX Runtime's calibrators other than min-max keep every activation of every sample.

    Raises:
        NotMade: It is not there.
    """
    context = multiprocessing.get_context("spawn")
    said = context.SimpleQueue()
    process = context.Process(target=_make, args=(way, source, calibration, target, said))
    process.start()
    process.join(limit_s)
    if process.is_alive():
        process.kill()
        process.join()
        raise NotMade(f"longer than {limit_s:g} s")
    if not said.empty():
        raise NotMade(said.get())
    if process.exitcode or not target.is_file():
        raise NotMade(f"the process ended with {process.exitcode}, as one does that is out of memory")


def _make(way: Way, source: Path, calibration: Batches, target: Path, said: Any) -> None:
    bytes_free = int(_MEMORY_SHARE * psutil.virtual_memory().available)
    resource.setrlimit(resource.RLIMIT_AS, (bytes_free, bytes_free))
    logging.getLogger().setLevel(logging.ERROR)
    try:
        way.file(source, calibration, target)
    except BaseException as error:  # a peer's failure is a finding and not this script's end
        said.put(_first_line(error))


def sources_of(model: Path, folder: Path) -> list[Path]:
    """The model as ONNX Runtime's own ``quant_pre_process`` prepares it, and as it is: either may be refused."""
    prepared = folder / "prepared.onnx"
    try:
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
    except Exception as error:  # its own preparation refuses models that its quantizers take
        print(f"quant_pre_process refuses {model.name}: {_first_line(error)}")
        return [model]
    return [prepared, model]


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


def _callable(path: Path, threads: int) -> Callable[[object], Any]:
    runner = session(path, threads)

    def model(feeds: Any) -> Any:
        outputs = runner.run(None, dict(feeds))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return model


def first_sample(model: Shipped, evaluation: Batches) -> Feeds:
    """One call as a user makes it: a single sample."""
    feeds = evaluation[0][0]
    return {name: array if name in model.constants else array[:1] for name, array in feeds.items()}


def race(files: Mapping[str, Path], feeds: Feeds, seconds: float, seed: int) -> list[float]:
    """Speeds over the first file, all of them called in turns."""
    calls = [partial(runner.run, None, dict(feeds)) for runner in (session(path) for path in files.values())]
    options = LatencyOptions(interval_width=0.01, max_pairs=3000, min_pairs=50, max_seconds=seconds)
    return list(race_latency(calls[0], calls[1:], options, seed=seed).speedups)


def judge_own_files(
    model: Shipped, folder: Path, calibration: Batches, loss_of: Callable[[Path], float], target: Path, limit_s: float
) -> tuple[list[Judged], dict[str, str]]:
    """ONNX Runtime's own files of a model with their losses, and why others cannot be made or run, by their names."""
    judged, refused = [], dict[str, str]()
    sources = sources_of(model.path(folder), target)
    for way in WAYS:
        path = target / f"{_slug(way.name)}.onnx"
        for source in sources:
            try:
                in_time(way, source, calibration, path, limit_s)
                judged.append(Judged(what=way.name, path=path, loss=loss_of(path)))
                refused.pop(way.name, None)
                break
            except Exception as error:  # a peer's failure is a finding and not this script's end
                refused[way.name] = str(error) if isinstance(error, NotMade) else _first_line(error)
                if refused[way.name].startswith("longer than"):
                    break  # the other source takes as long
    return judged, refused


def compare(model: Shipped, options: argparse.Namespace) -> dict[str, Any]:
    """Tune one model and race the result against ONNX Runtime's own files that keep the target."""
    folder: Path = options.folder
    calibration, samples = model.calibration(folder, options.calibration), options.samples or model.samples
    evaluation, evaluate = model.evaluation(folder, samples), model.eval_fn(folder, samples)
    accuracy = evaluate(_callable(model.path(folder), threads=2))

    def loss_of(path: Path) -> float:
        return 1 - evaluate(_callable(path, threads=2)) / accuracy

    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch)
        row: dict[str, Any] = {"model": model.name, "accuracy": accuracy, "given_s": options.timeout}
        own: list[Judged] = []
        if not options.alone:
            own, row["not_made"] = judge_own_files(model, folder, calibration, loss_of, target, options.own_limit)
            row["own_losses"] = {file.what: file.loss for file in own}
            row["own_tried"] = f"{sum(file.loss <= TARGET for file in own)} of {len(WAYS)}"
        tuner = autotune.Tuner(timeout_s=options.timeout, seed=options.seed, sampling_size=options.calibration)
        source: dict[str, Any] = (
            {"eval_fn": evaluate}
            if options.eval_fn
            else {"metric": model.metric(folder), "eval_dataloader": evaluation}
        )
        started = time.perf_counter()
        try:
            result = tuner.tune(model.path(folder), calibration, **source)
        except Exception as error:  # the table says so, and the other models are tuned all the same
            return {**row, "verdict": type(error).__name__, "reason": _first_line(error)}
        row["wall_s"] = time.perf_counter() - started
        tuned = result.save(target / "tuned.onnx")
        kept = [file for file in own if file.loss <= TARGET]
        files = {"fp32": model.path(folder), "tuned": tuned, **{file.what: file.path for file in kept}}
        speeds = race(files, first_sample(model, evaluation), options.race_seconds, options.seed)
        row |= {"verdict": str(result.verdict), "loss": loss_of(tuned), "speed": speeds[0]}
        if kept:
            speed, best = max(zip(speeds[1:], kept, strict=True), key=lambda pair: pair[0])
            row |= {"own": best.what, "own_loss": best.loss, "own_speed": speed}
    row["trials"] = len(result.history) - 1
    row["seconds"] = dict(result.seconds)
    row["reason"] = f"{result.reason} The search: {result.end_reason}"
    return row


def _cells(row: Mapping[str, Any]) -> list[str]:
    def figure(name: str, shape: str) -> str:
        return format(row[name], shape) if name in row and row[name] is not None else ""

    names = (
        "model",
        "accuracy",
        "verdict",
        "loss",
        "speed",
        "own",
        "own_loss",
        "own_speed",
        "own_tried",
        "given_s",
        "wall_s",
        "trials",
    )
    shapes = ("", ".4f", "", ".2%", ".2f", "", ".2%", ".2f", "", ".0f", ".0f", "")
    return [figure(name, shape) for name, shape in zip(names, shapes, strict=True)]


_COLUMNS = (
    "model",
    "fp32",
    "verdict",
    "loss",
    "speed",
    "best of ONNX Runtime's own",
    "its loss",
    "its speed",
    "that keep 1 %",
    "given s",
    "wall s",
    "trials",
)


def main() -> None:
    """Parse the command line and run."""
    parser = argument_parser(__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS), help=f"of {list(MODELS)}")
    parser.add_argument("--folder", type=Path, default=Path("runs/shipped"), help="where the packages are unpacked")
    parser.add_argument("--timeout", type=float, default=240, help="seconds given to each run")
    parser.add_argument("--calibration", type=int, default=100, help="calibration samples")
    parser.add_argument("--samples", type=int, help="evaluation samples instead of each model's own number")
    parser.add_argument("--own-limit", type=float, default=120, help="seconds for each of ONNX Runtime's own files")
    parser.add_argument("--race-seconds", type=float, default=30)
    parser.add_argument("--eval-fn", action="store_true", help="judge by a plain function, which cannot end early")
    parser.add_argument("--alone", action="store_true", help="leave ONNX Runtime's own files out")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    ort.set_default_logger_severity(3)
    install(options.folder)
    rows = []
    for name in options.models:
        rows.append(compare(MODELS[name], options))
        print(f"{name}: {rows[-1]['reason']}")
        for what, why in rows[-1].get("not_made", {}).items():
            print(f"{name}, ONNX Runtime's {what}: {why}")
    print()
    print_table(_COLUMNS, [_cells(row) for row in rows])
    write_result(options.json, "shipped", options.seed, {row["model"]: row for row in rows})


if __name__ == "__main__":
    main()
