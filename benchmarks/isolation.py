"""A search with a segmentation fault, an endless loop and a 30 GB allocation planted in three of its trials.

Run from the root of the repository: ``python benchmarks/isolation.py``. The candidates of ResNet-20 are tried in worker
processes with and without the faults; both searches must end with the same best model. Then the speedup of the best is
measured in this process and in a worker in turn: both must say the same.
"""

from __future__ import annotations

import ctypes
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from shared import SUBJECTS, argument_parser, print_rows, write_result

from autotune.adapters.onnxruntime import OnnxRuntimeAdapter
from autotune.config import QuantizationConfig
from autotune.criterion import Criterion, Verdict
from autotune.errors import TrialError
from autotune.evaluation import Evaluator, LatencyOptions, UserFunction
from autotune.evaluation.isolation.isolated import IsolatedEvaluator, IsolationOptions

FAULTS = {2: "segmentation fault", 3: "endless loop", 5: "30 GB allocation"}
"""By number of the trial."""


def main() -> None:
    """Search twice, compare, report."""
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5, help="comparisons of worker and process")
    arguments = parser.parse_args()
    adapter = OnnxRuntimeAdapter()
    subject = SUBJECTS["resnet20"]
    model = adapter.load(subject.path)
    calibration, _ = subject.images("calibration", 50)
    inputs, labels = subject.images("evaluation", arguments.images)
    statistics = adapter.calibrate(model, [{"data": calibration}], seed=arguments.seed)
    ops = {op.name: op.preferred for op in adapter.space(model).ops}
    names = list(ops)
    configs = [QuantizationConfig(ops={name: ops[name] for name in names[skip:]}) for skip in (15, 12, 9, 6, 3, 0)]
    models = [adapter.apply(model, config, statistics) for config in configs]
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "trial"
        settings: dict[str, Any] = {
            "adapter": adapter,
            "model": model,
            "source": UserFunction(function=scored(inputs, labels, plan)),
            "criterion": Criterion(relative=0.03),
            "latency": LatencyOptions(max_seconds=3.0),
            "feeds": {"data": inputs[:1]},
            "seed": arguments.seed,
        }
        options = IsolationOptions(trial_timeout_s=40.0, trial_memory_bytes=2 * 2**30)
        with IsolatedEvaluator(isolation=options, **settings) as isolated:
            plan.write_text("")
            isolated.baseline()
            rows, best = [], {}
            for planted in (False, True):
                found, best[planted] = search(isolated, models, plan, planted=planted)
                rows += found
            local: Evaluator[Any] = Evaluator(**settings)
            plan.write_text("")
            local.baseline()
            candidate = models[best[True]]
            here, there = [], []
            for _ in range(arguments.rounds):
                here.append(local.evaluate(candidate).measurement.speedup)
                there.append(isolated.evaluate(candidate).measurement.speedup)
    rows += [
        {"search": "both", "outcome": "same best model" if best[False] == best[True] else "ANOTHER BEST MODEL"},
        {"search": "best in this process", "speedup": float(np.median(np.array(here, float)))},
        {"search": "best in a worker", "speedup": float(np.median(np.array(there, float)))},
    ]
    print_rows(rows)
    write_result(arguments.json, "isolation", arguments.seed, {"rows": rows})


def search(
    evaluator: IsolatedEvaluator[Any], models: list[Any], plan: Path, *, planted: bool
) -> tuple[list[dict[str, Any]], int]:
    """Try every candidate once, with faulty trials between them; the rows, and the index of the best."""
    queue = list(range(len(models)))
    rows: list[dict[str, Any]] = []
    best, fastest, number = -1, 0.0, 0
    while queue:
        fault = FAULTS.get(number, "") if planted else ""
        plan.write_text(fault)
        row: dict[str, Any] = {"search": "with faults" if planted else "without", "trial": number, "planted": fault}
        started = time.monotonic()
        try:
            measured = evaluator.evaluate(models[queue[0]], needs_accuracy=True).measurement
            row |= {"outcome": str(measured.verdict), "speedup": measured.speedup}
            row["peak MiB"] = (measured.peak_memory_bytes or 0) // 2**20
            if measured.verdict is Verdict.MET and (measured.speedup or 0.0) > fastest:
                best, fastest = queue[0], measured.speedup or 0.0
        except TrialError as error:
            row["outcome"] = f"failed: {error}"
        row["seconds"] = time.monotonic() - started
        rows.append(row)
        # A faulty trial is one of its own: the candidate that it ran on comes again.
        if not fault:
            queue.pop(0)
        number += 1
    return rows, best


def scored(inputs: Any, labels: Any, plan: Path) -> Callable[[Callable[[Any], Any]], float]:
    """Top-1, and before it whatever fault the plan asks for."""

    def eval_fn(model: Callable[[Any], Any]) -> float:
        fault = plan.read_text()
        if fault == "segmentation fault":
            ctypes.string_at(0)
        while fault == "endless loop":
            pass
        if fault == "30 GB allocation":
            # In pieces that are written to: asked for at once, 30 GB are refused before they harm anybody.
            kept = [np.ones(10**8 // 8) for _ in range(300)]
            del kept
        return float((model(inputs).argmax(1) == labels).mean())

    return eval_fn


if __name__ == "__main__":
    main()
