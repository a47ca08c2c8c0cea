"""The quickstart in Python: the same model and data, scored by a function of your own."""

from __future__ import annotations

from pathlib import Path

import digits

import autotune

FOLDER = Path(__file__).parent


def main() -> None:
    """Tune the digits model, and write the answer beside it."""
    tuner = autotune.Tuner(
        criterion=autotune.Criterion(relative=0.01),
        max_trials=30,
        timeout_s=90,
        workspace=FOLDER / "runs" / "python",
    )
    result = tuner.tune(FOLDER / "digits.onnx", digits.training(), digits.accuracy)

    baseline, best = result.baseline.measurement, result.best.measurement
    assert baseline is not None
    assert best is not None
    print(f"{result.verdict}: {result.reason}")
    print(f"accuracy {baseline.accuracy:.4f} -> {best.accuracy:.4f}, {best.speedup:.2f} times as fast as fp32")
    print(result.precision_table())
    print(result.save(FOLDER / "runs" / "digits.tuned.onnx"))


if __name__ == "__main__":
    main()
