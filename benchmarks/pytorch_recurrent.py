"""Dynamic int8 of LSTM and GRU in PyTorch beside fp32, both compiled by Inductor, calls taking turns.

Run from the root of the repository: ``python benchmarks/pytorch_recurrent.py``. One recurrent layer reads 50 steps of
64 features, and a head reads its last step; weights are random. ``--hidden`` and ``--batch`` take other sizes.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from shared import argument_parser, print_rows, write_result
from torch import nn

from autotune.adapter import Execution
from autotune.adapters.pytorch.adapter import PytorchAdapter
from autotune.adapters.pytorch.package import package_file, stayed_fp32
from autotune.adapters.pytorch.quiet import quiet
from autotune.config import Precision, QuantizationConfig
from autotune.evaluation import LatencyOptions, compare_latency

KINDS = {"LSTM": nn.LSTM, "GRU": nn.GRU}
INPUTS = 64


class Network(nn.Module):
    """A recurrent layer and a head on its last step."""

    def __init__(self, kind: str, hidden: int) -> None:
        super().__init__()
        self.rnn = KINDS[kind](INPUTS, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores, shape (samples, 10)."""
        scores: torch.Tensor = self.head(self.rnn(x)[0][:, -1])
        return scores


def measured(
    kind: str, hidden: int, batches: list[int], steps: int, options: LatencyOptions
) -> list[dict[str, object]]:
    """A row for each number of samples."""
    adapter, one = PytorchAdapter(), Execution(threads=1)
    generator = np.random.default_rng(0)
    example = generator.normal(size=(4, steps, INPUTS)).astype(np.float32)
    with quiet():
        program = torch.export.export(
            Network(kind, hidden).eval(), (torch.from_numpy(example),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
        )
    model = adapter.load(program)
    statistics = adapter.calibrate(model, [{"x": example}], seed=0)
    choice = adapter.space(model).by_name["rnn"].space_of(Precision.INT8_DYNAMIC)
    assert choice is not None
    candidate = adapter.apply(model, QuantizationConfig(ops={"rnn": choice.preferred}), statistics)
    package_file(model)
    started = time.process_time()
    package_file(candidate)
    compiling_s = time.process_time() - started
    assert not stayed_fp32(candidate)
    runners = [adapter.runner(each, one) for each in (model, candidate)]
    rows: list[dict[str, object]] = []
    for batch in batches:
        feeds = {"x": generator.normal(size=(batch, steps, INPUTS)).astype(np.float32)}
        fp32, int8 = ((lambda runner=runner, feeds=feeds: runner(feeds)) for runner in runners)
        compared = compare_latency(fp32, int8, options)
        real, found = (runner(feeds)[0] for runner in runners)
        rows.append(
            {
                "op": kind,
                "units": hidden,
                "samples": batch,
                "fp32 ms": compared.baseline_ms,
                "int8 ms": compared.candidate_ms,
                "speed": f"{compared.speedup:.2f} ({compared.interval.low:.2f}-{compared.interval.high:.2f})",
                "SQNR dB": round(float(10 * np.log10(np.square(real).mean() / np.square(real - found).mean())), 1),
                "compiling, processor s": round(compiling_s),
            }
        )
    return rows


def main() -> None:
    """Compile and time every case."""
    parser = argument_parser(__doc__)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--hidden", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=4.0, help="at most, for each figure")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    options = LatencyOptions(max_pairs=500, max_seconds=arguments.seconds)
    rows = [
        row
        for kind in arguments.kinds
        for hidden in arguments.hidden
        for row in measured(kind, hidden, arguments.batch, arguments.steps, options)
    ]
    print_rows(rows)
    write_result(arguments.json, "pytorch_recurrent", arguments.seed, {"rows": rows})


if __name__ == "__main__":
    main()
