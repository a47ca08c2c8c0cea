"""What fp16 and bf16 are worth on this host: each op between two Casts beside float32, calls taking turns.

Run from the root of the repository: ``python benchmarks/half_precision.py``. It measures what ``autotune`` measures
once per host before it offers these precisions, with more calls, and also where ONNX Runtime has no kernel of the type
and computes in float32 all the same.
"""

from __future__ import annotations

import dataclasses
import time

from shared import argument_parser, print_rows, write_result

from autotune.adapters.onnxruntime.half_speed import CASES, measure
from autotune.evaluation import LatencyOptions


def main() -> None:
    """Time what a host pays once, then measure thoroughly and report."""
    parser = argument_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="at most, for each figure")
    arguments = parser.parse_args()
    started = time.monotonic()
    offered = measure()
    seconds = time.monotonic() - started
    options = LatencyOptions(max_pairs=300, max_seconds=arguments.seconds)
    figures = measure(options=options, without_kernel=True).figures
    rows = []
    for case, figure in zip([*CASES, *CASES], figures, strict=True):
        measured = "refused" if figure.speedup is None else f"{figure.speedup:.3g}x"
        rows.append(
            {
                "op": str(case.kind),
                "reads": "x".join(map(str, case.source)),
                "outputs": case.outputs,
                "precision": str(figure.precision),
                "kernel": "yes" if figure.kernel else "no",
                "speed over fp32": measured if figure.low is None else f"{measured} (from {figure.low:.3g}x)",
            }
        )
    print_rows(rows)
    print(f"\nMeasured once per host in {seconds:.1f} s: {offered}")
    result = {"seconds": seconds, "summary": str(offered), "figures": [dataclasses.asdict(f) for f in figures]}
    write_result(arguments.json, "half_precision", arguments.seed, result)


if __name__ == "__main__":
    main()
