"""How often two sessions of one and the same model seem to differ in speed while another process keeps a core busy.

Run from the root of the repository: ``python benchmarks/latency_noise.py``. Beside the evaluator's interleaved ratio of
medians it computes what a stopwatch around one session and then the other would have said.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from shared import SUBJECTS, argument_parser, print_rows, write_result

from autotune.adapters.onnxruntime import OnnxRuntimeAdapter
from autotune.evaluation import LatencyOptions, compare_latency

BUSY = "import numpy as np\na = np.ones((300, 300))\nwhile True: a @ a"


def main() -> None:
    """Compare, count and report."""
    parser = argument_parser(__doc__)
    parser.add_argument("--comparisons", type=int, default=30)
    arguments = parser.parse_args()
    adapter = OnnxRuntimeAdapter()
    model = adapter.load(SUBJECTS["resnet20"].path)
    feeds = {"data": np.zeros((1, 3, 32, 32), np.float32)}
    options = LatencyOptions()
    paired, one_shot, widths, pairs, undecided = [], [], [], [], 0
    neighbour = subprocess.Popen([sys.executable, "-c", BUSY], env={"OPENBLAS_NUM_THREADS": "1"})
    started = time.monotonic()
    try:
        for index in range(arguments.comparisons):
            first, second = (adapter.runner(model, options.execution) for _ in range(2))
            one_shot.append(_clock(lambda: first(feeds)) / _clock(lambda: second(feeds)))  # noqa: B023  # called at once
            found = compare_latency(
                lambda: first(feeds),  # noqa: B023
                lambda: second(feeds),  # noqa: B023
                options,
                seed=arguments.seed + index,
            )
            paired.append(found.speedup)
            widths.append((found.interval.high - found.interval.low) / 2)
            pairs.append(found.pairs)
            undecided += not found.decided
    finally:
        neighbour.kill()
        neighbour.wait()
    rows = [
        {
            "method": name,
            "comparisons": len(ratios),
            "over 5 %": int((np.abs(np.array(ratios) - 1) > 0.05).sum()),
            "over 10 %": int((np.abs(np.array(ratios) - 1) > 0.10).sum()),
            "largest difference": float(np.abs(np.array(ratios) - 1).max()),
        }
        for name, ratios in (("one after the other, 30 calls each", one_shot), ("interleaved medians", paired))
    ]
    rows[1] |= {
        "median half width": float(np.median(widths)),
        "median pairs": float(np.median(pairs)),
        "undecided": undecided,
        "seconds each": (time.monotonic() - started) / arguments.comparisons,
    }
    print_rows(rows)
    write_result(arguments.json, "latency_noise", arguments.seed, {"rows": rows})


def _clock(call: Callable[[], object]) -> float:
    for _ in range(5):
        call()
    started = time.perf_counter()
    for _ in range(30):
        call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
