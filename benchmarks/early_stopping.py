"""How many samples early stopping saves over searches on MobileNetV2, and how often it changes a verdict.

Run from the root of the repository: ``python benchmarks/early_stopping.py``. Every candidate is evaluated in full once
(minutes; kept in ``--records``). Then searches are replayed: the candidates in a random order, what is slower than the
fastest so far that keeps the target is pruned, and the stopping rule runs on all others with a seed of its own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantType
from shared import (
    SUBJECTS,
    Batches,
    argument_parser,
    call,
    print_rows,
    quantize_with_onnxruntime,
    session,
    write_result,
)

from autotune.evaluation.accuracy.metrics import TopK
from autotune.evaluation.accuracy.stopping import Outcome, Population, StoppingRule

SUBJECT = SUBJECTS["mobilenetv2"]
BATCH = 25


def main() -> None:
    """Record if need be, replay, report."""
    parser = argument_parser(__doc__)
    parser.add_argument("--records", type=Path, default=Path("runs/early_stopping.npz"))
    parser.add_argument("--searches", type=int, default=100)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.005, 0.01, 0.02])
    arguments = parser.parse_args()
    if not arguments.records.exists():
        record(arguments.records)
    with np.load(arguments.records) as archive:
        records = dict(archive)
    rows = [
        replay(records, target, accept=accept, searches=arguments.searches, seed=arguments.seed)
        for target in arguments.targets
        for accept in (False, True)
    ]
    print_rows(rows)
    write_result(arguments.json, "early_stopping", arguments.seed, {"rows": rows})


def replay(
    records: dict[str, npt.NDArray[Any]], target: float, *, accept: bool, searches: int, seed: int
) -> dict[str, Any]:
    """Searches in random orders, and what became of their trials."""
    labels, logits = records["labels"], records["logits"]
    right = (logits.argmax(axis=1) == labels).astype(np.float64)
    population = Population.make(
        right,
        list(np.arange(len(right)).reshape(-1, 1)),
        bounds=(0.0, 1.0),
        higher_is_better=True,
        difficulty=TopK().difficulty((logits,), labels),
        any_order=True,
    )
    losses = right - (records["predictions"] == labels)
    limit = target * right.sum()
    generator = np.random.default_rng(seed)
    trials = pruned = seen = wrong = certain = 0
    for search in range(searches):
        fastest = np.inf
        best_seen = len(right)
        for candidate in generator.permutation(len(losses)):
            trials += 1
            if records["latency"][candidate] > fastest:
                pruned += 1
                continue
            rule = StoppingRule(population, limit=limit, seed=search, accept=accept)
            outcome, samples, sure = _evaluate(rule, losses[candidate])
            seen += samples
            certain += sure
            truth = Outcome.MISSED if losses[candidate].sum() > limit else Outcome.MET
            wrong += outcome is not truth
            if outcome is Outcome.MET:
                fastest, best_seen = records["latency"][candidate], samples
        # The answer is evaluated to the end, whatever it was spared.
        seen += len(right) - best_seen
    evaluated = trials - pruned
    return {
        "target": target,
        "early acceptance": accept,
        "trials": trials,
        "pruned by latency": pruned / trials,
        "share of samples, all trials": seen / (trials * len(right)),
        "share of samples, accuracy evaluations": seen / (evaluated * len(right)),
        "same verdict": 1 - wrong / evaluated,
        "settled by certainty": certain / evaluated,
    }


def _evaluate(rule: StoppingRule, losses: npt.NDArray[np.float64]) -> tuple[Outcome, int, bool]:
    for start in range(0, len(losses), BATCH):
        stop = rule.update(list(losses[rule.order[start : start + BATCH]]))
        if stop is not None:
            return stop.outcome, min(len(losses), start + BATCH), stop.certain
    return (Outcome.MET, len(losses), True)


def candidates() -> Iterator[tuple[str, dict[str, Any]]]:
    """Configs that a search might try: schemes, calibration, and more and more ops left in fp32."""
    nodes = onnx.load(SUBJECT.path).graph.node
    convolutions = [node.name for node in nodes if node.op_type == "Conv"]
    rest = [node.name for node in nodes if node.op_type in ("Gemm", "GlobalAveragePool")]
    yield "s8s8", {"activation_type": QuantType.QInt8, "per_channel": False}
    yield "per tensor", {"per_channel": False}
    yield "per channel", {}
    yield "percentile", {"calibrate_method": CalibrationMethod.Percentile}
    for count in (1, 2, 3, 4, 6, 8, 12, 16, 24, 36):
        yield f"first {count} in fp32", {"nodes_to_exclude": convolutions[:count]}
    for count in (3, 8):
        yield f"first {count} and head in fp32", {"nodes_to_exclude": convolutions[:count] + rest}
    for step in (5, 20):
        kept = [name for index, name in enumerate(convolutions) if index % step]
        yield f"every {step}th in int8", {"nodes_to_exclude": kept}


def record(path: Path) -> None:
    """Evaluate fp32 and every candidate on all images."""
    calibration = SUBJECT.batches("calibration", 100)
    evaluation = SUBJECT.batches("evaluation", 5000, BATCH)
    labels = np.concatenate([batch for _, batch in evaluation])
    logits, _ = _run(SUBJECT.path, evaluation)
    names, predictions, latency = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for name, options in candidates():
            file = quantize_with_onnxruntime(SUBJECT, calibration, Path(folder) / "candidate.onnx", **options)
            outputs, milliseconds = _run(file, evaluation)
            names.append(name)
            predictions.append(outputs.argmax(axis=1))
            latency.append(milliseconds)
            loss = 1 - (predictions[-1] == labels).mean() / (logits.argmax(axis=1) == labels).mean()
            print(f"recorded {name}: loss {loss:+.2%}, {milliseconds:.2f} ms", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path, names=names, predictions=np.array(predictions), latency=latency, logits=logits, labels=labels
    )


def _run(model: Path, evaluation: Batches) -> tuple[npt.NDArray[np.float32], float]:
    """The logits of all images, and the median latency of one image in milliseconds."""
    opened = session(model)
    outputs = [opened.run(None, {"data": images})[0] for images, _ in evaluation]
    single = call(opened, evaluation[0][0][:1])
    times = []
    for _ in range(60):
        started = time.perf_counter()
        single()
        times.append(time.perf_counter() - started)
    return np.concatenate(outputs), float(np.median(times[10:])) * 1e3


if __name__ == "__main__":
    main()
