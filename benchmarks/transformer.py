"""``tune`` against ONNX Runtime's own ``quantize_dynamic`` and ``quantize_static`` on MiniLM, side by side in one run.

    python benchmarks/minilm.py runs/minilm                    # once, in an environment of its own: see there
    python benchmarks/transformer.py runs/minilm [--texts 1600] [--pairs 80] [--json transformer.json]
    python benchmarks/transformer.py runs/minilm --model minilm_opset14.onnx    # by PyTorch's older exporter

The rivals get every help: what the exporter wrote down of the tensors inside is removed first, since
``quantize_dynamic`` fails on it (the table says how), weights are per channel where that is better, one comes after the
fusions of ``onnxruntime.transformers`` (``pip install sympy torch`` for that), and of those that meet the target of 1 %
relative loss on the same texts the fastest counts. Latency is that of the model as exported divided by the candidate's,
one text, one thread; ``over rival`` compares the tuned model with that fastest rival directly.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from shared import print_table, session, write_result

import autotune
from autotune.evaluation import LatencyOptions, compare_latency

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
HEADS, HIDDEN = 12, 384
TARGET = 0.01
BATCH = 25

Feeds = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        name: Name of the tool that made the model.
        path: Path of the model; None where it could not be made.
        loss: Relative to fp32; negative where it answers better.
        speedup: Speedup over the model as exported, with its interval.
        seconds: Time that making it took.
        error: Why there is no model.
    """

    name: str
    path: Path | None
    seconds: float
    loss: float | None = None
    speedup: tuple[float, float, float] | None = None
    error: str = ""


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime ships no types
    def __init__(self, feeds: list[Feeds]) -> None:
        self._feeds: Iterator[Feeds] = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._feeds, None)


def read(folder: Path, part: str, count: int | None = None) -> list[tuple[Feeds, npt.NDArray[np.int64]]]:
    """Batches of token arrays (n, 64) and labels (n,)."""
    with np.load(folder / "texts.npz") as archive:
        arrays = {name: archive[f"{part}_{name}"][:count] for name in INPUTS}
        labels = archive[f"{part}_labels"][:count]
    return [
        ({name: array[i : i + BATCH] for name, array in arrays.items()}, labels[i : i + BATCH])
        for i in range(0, len(labels), BATCH)
    ]


def answers(model: Path, batches: list[tuple[Feeds, npt.NDArray[np.int64]]]) -> npt.NDArray[np.bool_]:
    """Whether each text is classified right, shape (texts,)."""
    opened = session(model)
    return np.concatenate([opened.run(None, feeds)[0].argmax(1) == labels for feeds, labels in batches])


def rivals(
    exported: Path, folder: Path, calibration: list[Feeds]
) -> Iterator[tuple[str, Path, Callable[[Path], None]]]:
    """Name, where it goes, and how it is made."""
    cleaned = folder / "cleaned.onnx"
    proto = onnx.load(exported)
    del proto.graph.value_info[:]
    onnx.save(proto, cleaned)
    matmuls = ["MatMul", "Gemm"]
    u8s8 = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "quant_format": QuantFormat.QDQ}

    def dynamic(source: Path, **options: Any) -> Callable[[Path], None]:
        return lambda target: quantize_dynamic(source, target, weight_type=QuantType.QInt8, **options)

    def static(**options: Any) -> Callable[[Path], None]:
        return lambda target: quantize_static(cleaned, target, _Reader(calibration), **u8s8, **options)

    def fused_first(target: Path) -> None:
        from onnxruntime.transformers.optimizer import optimize_model  # noqa: PLC0415  # needs sympy and torch

        fused = optimize_model(str(cleaned), model_type="bert", num_heads=HEADS, hidden_size=HIDDEN)
        fused.save_model_to_file(str(folder / "fused.onnx"))
        # Its quantizer does not know the type of tensors behind operators of ONNX Runtime's own.
        options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        dynamic(folder / "fused.onnx", per_channel=True, extra_options=options)(target)

    cases = {
        "quantize_dynamic, as exported": dynamic(exported),
        "quantize_dynamic": dynamic(cleaned),
        "quantize_dynamic, per channel": dynamic(cleaned, per_channel=True),
        "quantize_dynamic, MatMuls only, per channel": dynamic(cleaned, per_channel=True, op_types_to_quantize=matmuls),
        "onnxruntime.transformers, quantize_dynamic, per channel": fused_first,
        "quantize_static, all ops, per channel": static(per_channel=True),
        "quantize_static, MatMuls only, per channel": static(per_channel=True, op_types_to_quantize=matmuls),
    }
    for index, (name, make) in enumerate(cases.items()):
        yield name, folder / f"rival{index}.onnx", make


def made(name: str, target: Path, make: Callable[[Path], object]) -> Row:
    """Make a model; a failure is a result."""
    start = time.perf_counter()
    try:
        make(target)
    except Exception as error:  # whatever a rival raises is what its users see
        message = str(error).strip().splitlines()[-1][:120]
        return Row(name=name, path=None, seconds=time.perf_counter() - start, error=message)
    return Row(name=name, path=target, seconds=time.perf_counter() - start)


def ratio(slower: Path, faster: Path, feeds: Feeds, pairs: int) -> tuple[float, float, float]:
    """Time of the first divided by that of the second: ratio of medians and its 95 % interval."""
    first, second = session(slower), session(faster)
    options = LatencyOptions(min_pairs=pairs // 2, max_pairs=pairs, max_seconds=20.0)
    result = compare_latency(lambda: first.run(None, feeds), lambda: second.run(None, feeds), options)
    return result.speedup, result.interval.low, result.interval.high


def tuned(
    exported: Path, folder: Path, calibration: Any, evaluation: Any, trials: int
) -> tuple[Row, autotune.TuningResult]:
    """Tune with the target alone."""
    start = time.perf_counter()
    tuner = autotune.Tuner(criterion=autotune.Criterion(relative=TARGET), max_trials=trials)
    result = tuner.tune(exported, calibration, metric="topk", eval_dataloader=evaluation)
    target = folder / "tuned.onnx"
    result.save(target)
    return Row(name="autotune", path=target, seconds=time.perf_counter() - start), result


def measured(row: Row, exported: Path, right: npt.NDArray[np.bool_], evaluation: Any, one: Feeds, pairs: int) -> Row:
    """The row with loss and latency."""
    if row.path is None:
        return row
    loss = 1.0 - float(answers(row.path, evaluation).mean()) / float(right.mean())
    speedup = ratio(exported, row.path, one, pairs)
    return Row(name=row.name, path=row.path, seconds=row.seconds, loss=loss, speedup=speedup)


def shown(row: Row) -> list[str]:
    """A line of the table."""
    if row.loss is None or row.speedup is None:
        return [row.name, "-", "-", f"{row.seconds:.0f} s", row.error]
    middle, low, high = row.speedup
    meets = "" if row.loss <= TARGET else "misses the target"
    return [row.name, f"{row.loss:+.2%}", f"{middle:.2f}x ({low:.2f}-{high:.2f})", f"{row.seconds:.0f} s", meets]


def to_json(row: Row) -> Mapping[str, Any]:
    """A row of the result file."""
    return {
        "name": row.name,
        "relative_loss": row.loss,
        "speedup": row.speedup,
        "seconds": row.seconds,
        "error": row.error,
    }


def main() -> int:
    """Run, print the table, and say by exit status whether the tuned model is 5 % faster than its best rival."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the models and texts.npz lie")
    parser.add_argument("--texts", type=int, default=1600, help="evaluation texts")
    parser.add_argument("--model", default="minilm.onnx", help="which file of the folder is tuned")
    parser.add_argument("--pairs", type=int, default=80, help="interleaved pairs of calls per latency comparison")
    parser.add_argument("--trials", type=int, default=50, help="candidates that tune may try")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    exported = options.folder / options.model
    calibration = read(options.folder, "calibration", 100)
    evaluation = read(options.folder, "evaluation", options.texts)
    one = {name: array[:1] for name, array in evaluation[0][0].items()}
    right = answers(exported, evaluation)
    print(f"fp32: {right.mean():.2%} of {len(right)} texts")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own, result = tuned(exported, folder, calibration, evaluation, options.trials)
        rows = [made(*case) for case in rivals(exported, folder, [feeds for feeds, _ in calibration])]
        rows = [measured(row, exported, right, evaluation, one, options.pairs) for row in (*rows, own)]
        own = rows[-1]
        meeting = [row for row in rows[:-1] if row.loss is not None and row.loss <= TARGET and row.speedup]
        best = max(meeting, key=lambda row: row.speedup or (0.0, 0.0, 0.0), default=None)
        over = ratio(best.path, own.path, one, options.pairs) if best and best.path and own.path else None
    print_table(["", "relative loss", "speed over fp32", "made in", ""], [shown(row) for row in rows])
    stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items())
    print(f"autotune: {result.verdict}, {len(result.history)} trials; {stages}")
    print(", ".join(f"{count} {precision}" for precision, count in result.best.config.precisions().items()))
    if best is not None and over is not None:
        print(f"over rival ({best.name}): {over[0]:.3f}x ({over[1]:.3f}-{over[2]:.3f})")
    document = {
        "texts": len(right),
        "fp32_accuracy": float(right.mean()),
        "rows": [to_json(row) for row in rows],
        "over_rival": over,
        "rival": None if best is None else best.name,
        "trials": len(result.history),
    }
    write_result(options.json, "transformer", 0, document)
    won = over is None or over[0] >= 1.05
    return 0 if won and own.loss is not None and own.loss <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
