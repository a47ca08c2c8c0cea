"""Speedups of fp16 and bf16 on this host: each op between two Casts beside float32, calls taking turns.

Run from the root of the repository: ``python benchmarks/half_precision.py``. It measures what ``autotune`` measures
once per host before it offers these precisions, with more calls, and also where ONNX Runtime has no kernel of the type
and computes in float32 all the same. Then every convolution and MatMul of the two image models in fp16.
"""

from __future__ import annotations

import dataclasses
import time

from shared import SUBJECTS, Subject, argument_parser, call, print_rows, session, write_result

from autotune.adapters.onnxruntime import OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.measure.half_speed import CASES, measure
from autotune.config import OpConfig, Precision, QuantizationConfig
from autotune.evaluation import LatencyOptions, compare_latency


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
    models = [_whole_model(subject, options) for subject in SUBJECTS.values()]
    print()
    print_rows(models)
    result = {
        "models": models,
        "seconds": seconds,
        "summary": str(offered),
        "figures": [dataclasses.asdict(f) for f in figures],
    }
    write_result(arguments.json, "half_precision", arguments.seed, result)


def _whole_model(subject: Subject, options: LatencyOptions) -> dict[str, object]:
    adapter = OnnxRuntimeAdapter()
    model = adapter.load(subject.path)
    images, _ = subject.images("calibration", 32)
    statistics = adapter.calibrate(model, [{"data": images}], seed=0)
    ops = [op.name for op in adapter.space(model).ops if op.op_type in ("Conv", "Gemm", "MatMul")]
    config = QuantizationConfig(ops=dict.fromkeys(ops, OpConfig(precision=Precision.FP16)))
    half = adapter.apply(model, config, statistics)
    calls = [call(session(each.proto), images[:1]) for each in (model, half)]
    compared = compare_latency(calls[0], calls[1], options)
    return {
        "model": subject.name,
        "ops in fp16": len(ops),
        "Casts": sum(node.op_type == "Cast" for node in half.proto.graph.node),
        "size over fp32": round(half.size_bytes / model.size_bytes, 2),
        "speed over fp32": f"{compared.speedup:.2f}x ({compared.interval.low:.2f}-{compared.interval.high:.2f})",
    }


if __name__ == "__main__":
    main()
