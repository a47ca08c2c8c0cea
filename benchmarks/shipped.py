"""``tune`` on models that people ship inside Python packages, beside ONNX Runtime's own files of the same models.

Run from the root of the repository: ``python benchmarks/shipped.py --folder ../shipped --timeout 240``. Installs the
packages that ``shipped_models.py`` names into a folder of their own, without their dependencies. Prints one table:
verdict, loss and speed of what ``tune`` returns in the time given, loss and speed of the fastest of ONNX Runtime's own
static and dynamic files that keeps the target (all of them in one race with fp32), and the wall time of ``tune``.
Losses are those of the saved files over all evaluation samples. A line below the table says why a run ended as it did.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime as ort
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
"""Relative loss."""

Feeds = Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A file and what came of it.

    Attributes:
        what: How it was made.
        path: The file.
        loss: Relative, over all evaluation samples.
        speed: Over fp32; None where it was not raced.
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


def own_files(model: Path, calibration: Batches, folder: Path) -> Iterator[tuple[str, Sequence[Callable[[], Path]]]]:
    """ONNX Runtime's own ways to quantize a model, by name: functions that write a file, the preferred one first.

    Each way is there for the model as ONNX Runtime's own ``quant_pre_process`` prepares it, and for the model as it is,
    since either may be refused.
    """
    sources = [model]
    try:
        quant_pre_process(model, folder / "prepared.onnx", skip_symbolic_shape=True)
        sources.insert(0, folder / "prepared.onnx")
    except Exception as error:  # its own preparation refuses models that its quantizers take
        print(f"quant_pre_process refuses {model.name}: {_first_line(error)}")

    def make_static(source: Path, target: Path, options: Mapping[str, Any]) -> Path:
        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, **options}
        quantize_static(source, target, _Reader(calibration), quant_format=QuantFormat.QDQ, **types)
        return target

    def make_dynamic(source: Path, target: Path, options: Mapping[str, Any]) -> Path:
        quantize_dynamic(source, target, **options)
        return target

    for make, ways in ((make_static, STATIC), (make_dynamic, DYNAMIC)):
        for name, options in ways.items():
            yield name, [partial(make, source, folder / f"{_slug(name)}.onnx", options) for source in sources]


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
    model: Shipped, folder: Path, calibration: Batches, loss_of: Callable[[Path], float], target: Path
) -> list[Judged]:
    """ONNX Runtime's own files of a model with their losses; one that cannot be made or run is named and left out."""
    judged = []
    for what, ways in own_files(model.path(folder), calibration, target):
        for make in ways:
            try:
                path = make()
                judged.append(Judged(what=what, path=path, loss=loss_of(path)))
                break
            except Exception as error:  # a peer's failure is a finding and not this script's end
                print(f"{model.name}, ONNX Runtime's {what}: {_first_line(error)}")
    return judged


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
        own = [] if options.alone else judge_own_files(model, folder, calibration, loss_of, target)
        row: dict[str, Any] = {"model": model.name, "accuracy": accuracy, "given_s": options.timeout}
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
    row["own_losses"] = {file.what: file.loss for file in own}
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
        "given_s",
        "wall_s",
        "trials",
    )
    shapes = ("", ".4f", "", ".2%", ".2f", "", ".2%", ".2f", ".0f", ".0f", "")
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
    print()
    print_table(_COLUMNS, [_cells(row) for row in rows])
    write_result(options.json, "shipped", options.seed, {row["model"]: row for row in rows})


if __name__ == "__main__":
    main()
