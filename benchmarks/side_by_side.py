"""Whether two runtimes in one process time as each does alone.

Run from the root of the repository: ``python benchmarks/side_by_side.py [--threads 2]``. In a process for each runtime
and model, the fp32 model is timed alone, then the other runtime is imported and its sessions opened, and both are timed
call block by call block in turn, as a race does. Prints the ratio of the medians, alone over side by side, with the
range over repetitions: 1.00 where neither disturbs the other. The first part is repeated at the end without the other
runtime's calls, which tells what the machine's own pace changed meanwhile.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from shared import SUBJECTS, argument_parser, print_table, write_result

from autotune.adapter import Execution, given_model
from autotune.adapters import get_adapter
from autotune.evaluation.latency import SystemClock

NAMES = ("onnxruntime", "openvino")
BLOCKS, CALLS, DISCARDED = 60, 10, 3


def opened(runtime: str, path: str, feeds: dict[str, Any], threads: int) -> Callable[[], object]:
    """A session that has run."""
    adapter = get_adapter(runtime)
    runner = adapter.runner(given_model(adapter, adapter.load(path)), Execution(threads=threads))
    runner(feeds)
    return lambda: runner(feeds)


def timed(calls: list[Callable[[], object]], clock: SystemClock) -> float:
    """Median nanoseconds of the first, whose blocks alternate with those of the others."""
    found = []
    for _ in range(BLOCKS):
        for index, call in enumerate(calls):
            for _ in range(DISCARDED):
                call()
            readings = [clock.time(call).nanoseconds for _ in range(CALLS)]
            found += readings if index == 0 else []
    return float(np.median(found))


def child(runtime: str, path: str, size: int, threads: int) -> None:
    """Print the three medians of one runtime."""
    feeds = {"data": np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)}
    clock = SystemClock(threads)
    own = opened(runtime, path, feeds, threads)
    timed([own], clock)  # warm
    before = timed([own], clock)
    other = opened(next(name for name in NAMES if name != runtime), path, feeds, threads)
    beside = timed([own, other], clock)
    print(json.dumps([before, beside, timed([own], clock)]))


def main() -> None:
    """Parse the command line and run."""
    parser = argument_parser(__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        runtime, path, size = options.child
        child(runtime, path, int(size), options.threads)
        return
    rows, found = [], {}
    for subject in SUBJECTS.values():
        for runtime in NAMES:
            command = [sys.executable, __file__, "--threads", str(options.threads), "--child", runtime]
            command += [str(subject.path), str(subject.size)]
            ratios = []
            for _ in range(options.repeat):
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                before, beside, after = json.loads(output.splitlines()[-1])
                ratios.append((beside / ((before + after) / 2), after / before))
            beside_ratios, pace = zip(*ratios, strict=True)
            rows.append([subject.name, runtime, _range(beside_ratios), _range(pace)])
            found[f"{subject.name}, {runtime}"] = {"beside": beside_ratios, "pace": pace}
    print_table(["model", "runtime", "time side by side over alone", "alone again over alone"], rows)
    write_result(options.json, "side_by_side", options.seed, {"threads": options.threads, "ratios": found})


def _range(ratios: tuple[float, ...]) -> str:
    return f"{np.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


if __name__ == "__main__":
    main()
