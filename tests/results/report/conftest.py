"""A run over a chain of three ops, of which one is dear in accuracy, as a report shows it."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

from autotune.config import MINMAX, OpConfig, Precision, QuantizationConfig, QuantizedType, TensorScheme
from autotune.criterion import Criterion, Interval, Verdict
from autotune.results.summary import TuningSummary
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.evidence import Evidence, TensorEvidence

INT8 = OpConfig(precision=Precision.INT8, activation=TensorScheme(dtype=QuantizedType.U8), calibration=MINMAX)
ALL = QuantizationConfig(ops=dict.fromkeys(("first", "<middle>", "last"), INT8))
WITHOUT_MIDDLE = QuantizationConfig(ops=dict.fromkeys(("first", "last"), INT8))


class MakeSummary(Protocol):
    def __call__(self, *trials: Trial, **options: Any) -> TuningSummary: ...


def trial(number: int, config: QuantizationConfig, loss: float | None, speedup: float | None, **options: Any) -> Trial:
    state = options.pop("state", TrialState.COMPLETED)
    verdict = None if loss is None else Verdict.MET if loss <= 0.01 else Verdict.MISSED
    interval = None if speedup is None else Interval(low=speedup * 0.97, high=speedup * 1.03)
    measured = Measurement(
        accuracy=None if loss is None else 0.9 * (1 - loss), loss=loss, verdict=verdict, speedup=speedup,
        speedup_interval=interval, latency_ms=None if speedup is None else 1.0 / speedup, baseline_ms=1.0,
        latency_p90_ms=None if speedup is None else 1.1 / speedup,
        latency_p99_ms=None if speedup is None else 1.3 / speedup,
        loss_interval=None if loss is None else Interval(low=loss - 0.001, high=loss + 0.001), size_bytes=1_000_000,
    )  # fmt: skip
    return Trial(
        number=number, config=config, state=state, measurement=measured, duration_s=2.0, note=f"note {number}",
        reason=None if state is TrialState.COMPLETED else "slower than the best", **options,
    )  # fmt: skip


@pytest.fixture
def summary() -> MakeSummary:
    def make(*trials: Trial, **options: Any) -> TuningSummary:
        fp32 = trial(0, QuantizationConfig(), 0.0, 1.0)
        others = trials or (trial(1, ALL, 0.05, 2.0), trial(2, WITHOUT_MIDDLE, 0.002, 1.6))
        values: dict[str, Any] = {
            "verdict": Verdict.MET, "best": others[-1], "baseline": fp32, "reason": "it is so",
            "end_reason": "all tried",
            "criterion": Criterion(), "history": [fp32, *others], "evidence": evidence(),
            "op_types": {"first": "Conv", "<middle>": "MatMul", "last": "Conv"}, **options,
        }  # fmt: skip
        return TuningSummary(**values)

    return make


def evidence(**options: Any) -> Evidence:
    tensor = TensorEvidence(
        name="hidden", ops=("last",), scheme="u8", low=-1.0, high=2.0, noise=0.01, counts=(1, 50, 900, 30, 0, 1),
        start=-2.0, stop=4.0,
    )  # fmt: skip
    values: dict[str, Any] = {
        "sensitivity": {"first": 0.001, "<middle>": 0.008, "last": 0.001},
        "seconds": {
            "first": {"fp32": 4e-4, "int8": 1e-4}, "<middle>": {"fp32": 5e-4, "int8": 2e-4},
            "last": {"fp32": 1e-4, "int8": 3e-4},
        },
        "crossing": {"first": 2e-5, "<middle>": 3e-5, "last": 7e-5},
        "readers": {"first": ["<middle>"], "<middle>": ["last"], "last": []},
        "tensors": (tensor,),
        "runs": (
            {"started": "2026-01-01T00:00:00+00:00", "command": "autotune run a.yaml", "model": "a.onnx", "seed": 7},
        ),
        **options,
    }  # fmt: skip
    return Evidence(**values)
