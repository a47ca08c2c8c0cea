"""Size and speed of a report over a long search of a large model.

Run from the root of the repository: ``python benchmarks/report_size.py``. The summary is made up: 200 trials of a model
with 500 ops, each with figures, among them pruned and failed ones. Where Chromium is installed, it loads the page
without a display: what is timed is loading, sorting by each column and filtering both tables.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from shared import argument_parser, print_rows, write_result

from autotune.config import KL, MINMAX, OpConfig, Precision, QuantizationConfig, QuantizedType, TensorScheme
from autotune.criterion import Criterion, Interval, Verdict
from autotune.results.report import render
from autotune.results.summary import TuningSummary
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.evidence import Evidence, TensorEvidence

_INTERACT = """<script>addEventListener("load", () => {
  for (const head of document.querySelectorAll("#ops th button, #trials th button")) head.click();
  for (const input of document.querySelectorAll("input.filter")) {
    input.value = "7"; input.dispatchEvent(new Event("input"));
  }
  document.title = `done ${performance.now()}`;
});</script></body>"""


def made_up(trials: int, ops: int, seed: int) -> TuningSummary:
    """A summary of so many trials and ops."""
    rng = np.random.default_rng(seed)
    names = [f"/model/encoder/layer.{index // 10}/block.{index % 10}/Conv" for index in range(ops)]
    scheme = TensorScheme(dtype=QuantizedType.U8)
    choices = [OpConfig(precision=Precision.INT8, activation=scheme, calibration=each) for each in (KL, MINMAX)]
    history = [_trial(0, QuantizationConfig(), 0.0, 1.0, TrialState.COMPLETED)]
    for number in range(1, trials):
        fp32 = set(rng.choice(ops, int(rng.integers(1, ops // 4)), replace=False).tolist())
        chosen = {name: choices[index % 2] for index, name in enumerate(names) if index not in fp32}
        state = TrialState.PRUNED if number % 5 == 0 else TrialState.COMPLETED
        loss = None if number % 10 == 0 else float(rng.exponential(0.01))
        history.append(_trial(number, QuantizationConfig(ops=chosen), loss, float(rng.normal(1.8, 0.2)), state))
    tensor = TensorEvidence(
        name=names[0], ops=names[:2], scheme="u8", low=-1.0, high=1.0, noise=0.1, start=-2.0, stop=2.0,
        counts=rng.integers(0, 9999, 80).tolist(),
    )  # fmt: skip
    evidence = Evidence(
        sensitivity={name: float(rng.exponential(1e-3)) for name in names},
        seconds={name: {"fp32": 2e-4, "int8": 1e-4} for name in names},
        crossing=dict.fromkeys(names, 1e-5),
        readers={name: names[index + 1 : index + 2] for index, name in enumerate(names)},
        tensors=(tensor,) * 9,
    )
    return TuningSummary(
        verdict=Verdict.MET, best=history[1], baseline=history[0], reason="it is made up", end_reason="all was tried",
        criterion=Criterion(), history=history, op_types=dict.fromkeys(names, "Conv"), evidence=evidence,
    )  # fmt: skip


def _trial(number: int, config: QuantizationConfig, loss: float | None, speedup: float, state: TrialState) -> Trial:
    measured = Measurement(
        accuracy=0.7, loss=loss, loss_interval=None if loss is None else Interval(low=loss - 0.01, high=loss + 0.01),
        verdict=None if loss is None else Verdict.MET if loss <= 0.01 else Verdict.MISSED, latency_ms=10 / speedup,
        latency_p90_ms=11 / speedup, latency_p99_ms=12 / speedup, speedup=speedup, size_bytes=10_000_000,
        speedup_interval=Interval(low=speedup - 0.03, high=speedup + 0.03),
    )  # fmt: skip
    reason = None if state is TrialState.COMPLETED else "not faster than the best candidate that keeps the target"
    return Trial(
        number=number, config=config, state=state, measurement=measured, reason=reason, duration_s=3.0,
        note="a candidate of the sampler, which says a few words about why it was drawn",
    )  # fmt: skip


def in_browser(browser: str, text: str) -> float:
    """Seconds from the begin of loading in a headless browser until the page is there, sorted and filtered."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        page.write_text(text.replace("</body>", _INTERACT), encoding="utf-8")
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
        done = subprocess.run(
            [*command, "--dump-dom", page.as_uri()], check=True, capture_output=True, text=True, timeout=60
        )
    found = re.search(r"<title>done ([\d.]+)</title>", done.stdout)
    if found is None:
        raise RuntimeError("The page must run its script to the end, but did not")
    return float(found[1]) / 1e3


def main() -> None:
    """Write a report of a made-up run, and load it."""
    parser = argument_parser(__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--ops", type=int, default=500)
    options = parser.parse_args()
    summary = made_up(options.trials, options.ops, options.seed)
    started = time.perf_counter()
    text = render(summary)
    row = {
        "trials": options.trials,
        "ops": options.ops,
        "megabytes": f"{len(text.encode()) / 1e6:.2f}",
        "seconds to write": f"{time.perf_counter() - started:.2f}",
    }
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    row["seconds in the browser"] = "-" if browser is None else f"{in_browser(browser, text):.2f}"
    print_rows([row])
    write_result(options.json, "report_size", options.seed, {"rows": [row]})


if __name__ == "__main__":
    main()
