"""How often a comparison of latencies is wrong or undecided, and whether its intervals hold what repeats show.

Run from the root of the repository: ``python benchmarks/latency_noise.py`` (``--quick``: a fifth of it). Three pairs
of models whose true ratio is known by construction, chains of 50 equal layers against 50, 51 and 65, are compared
again and again, in new sessions each time, while 0, 2 and 10 other processes keep the cores busy. Then searches over
ten equal candidates are simulated, to see whom pruning drops and by how much the best figure is overstated.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from shared import argument_parser, print_rows, session, write_result

from autotune.criterion import Interval
from autotune.evaluation import CacheState, LatencyComparison, LatencyOptions, RaceResult, compare_latency, race_latency
from autotune.evaluation.latency import Call, Reading

BUSY = (
    "import time\nimport numpy as np\na = np.ones((300, 300))\nend = time.time() + 900\nwhile time.time() < end: a @ a"
)
LAYERS, ROWS, WIDTH = 50, 8, 256
PAIRS = {"equals": 50, "1.02x": 51, "1.3x": 65}
LOADS = {0: 20, 2: 20, 10: 10}
"""Repeats by load: a comparison beside ten busy processes takes several times as long."""


def main() -> None:
    """Compare, simulate and report."""
    parser = argument_parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the repeats, which tell little of coverage")
    parser.add_argument("--pairs", nargs="*", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument("--loads", type=int, nargs="*", default=list(LOADS), choices=list(LOADS))
    parser.add_argument("--cache", choices=[str(state) for state in CacheState], default=str(CacheState.WARM))
    arguments = parser.parse_args()
    options = LatencyOptions(cache=CacheState(arguments.cache))
    share = 5 if arguments.quick else 1
    rows = []
    for load in arguments.loads:
        with busy_processes(load):
            rows += measure(load, LOADS[load] // share, arguments.pairs, options, arguments.seed)
    print_rows(rows)
    print()
    simulated = [simulate(spread, 50 // share, arguments.seed) for spread in (0.0, 0.02)]
    print_rows([row for each in simulated for row in each])
    write_result(arguments.json, "latency_noise", arguments.seed, {"rows": rows, "simulated": simulated})


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Processes that compute without end while the block runs, and for 15 minutes at the most."""
    environment = {"OPENBLAS_NUM_THREADS": "1"}
    processes = [subprocess.Popen([sys.executable, "-c", BUSY], env=environment) for _ in range(count)]
    time.sleep(1.0 if count else 0.0)
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def chain(layers: int) -> onnx.ModelProto:
    """A chain of equal matrix products with weights of their own."""
    generator = np.random.default_rng(0)
    nodes, weights = [], []
    for index in range(layers):
        weight = generator.standard_normal((WIDTH, WIDTH)).astype(np.float32) / math.sqrt(WIDTH)
        weights.append(numpy_helper.from_array(weight, f"w{index}"))
        nodes.append(helper.make_node("MatMul", [f"x{index}", f"w{index}"], [f"x{index + 1}"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [ROWS, WIDTH]) for name in ("x0", f"x{layers}")]
    model = helper.make_model(
        helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 9
    return model


def measure(
    load: int, repeats: int, pairs: Sequence[str], options: LatencyOptions, seed: int
) -> list[dict[str, object]]:
    """Repeat every comparison, all of them in turn, and count what came out."""
    baselines = {name: chain(PAIRS[name]) for name in pairs}
    candidate = chain(LAYERS)
    found: dict[str, list[LatencyComparison]] = {name: [] for name in pairs}
    spare = _call(candidate)  # the first session of the process is slower than others, and stays open
    spare()
    seconds = dict.fromkeys(pairs, 0.0)
    for repeat in range(repeats):
        for name, baseline in baselines.items():
            started = time.monotonic()
            first, second = opened([baseline, candidate], options, seed + repeat)
            found[name].append(compare_latency(first, second, options, seed=seed + repeat))
            seconds[name] += time.monotonic() - started
    return [row(load, name, found[name], seconds[name]) for name in pairs]


def opened(models: Sequence[onnx.ModelProto], options: LatencyOptions, seed: int) -> list[list[Call]]:
    """New sessions of two models, as calls, opened in turn: where they lie in memory counts."""
    calls: list[list[Call]] = [[] for _ in models]
    generator = np.random.default_rng(seed)
    for _ in range(options.sessions):
        for index in generator.permutation(len(models)):
            calls[index].append(_call(models[index]))
    return calls


def _call(model: onnx.ModelProto) -> Call:
    runner, feeds = session(model), {"x0": np.ones((ROWS, WIDTH), np.float32)}
    return lambda: runner.run(None, feeds)


def row(load: int, name: str, found: Sequence[LatencyComparison], seconds: float) -> dict[str, object]:
    """Summary of the repeats of one comparison."""
    logs = np.log([each.speedup for each in found])
    pooled = float(np.exp(logs.mean()))
    same = name == "equals"
    wrong = [each.interval.high < 1 or (same and each.interval.low > 1) for each in found]
    return {
        "load": load,
        "pair": name,
        "repeats": len(found),
        "wrong": sum(wrong),
        "not told apart": "" if same else sum(holds(each.interval, 1.0) for each in found),
        "too wide": sum(not each.decided for each in found),
        "pooled": pooled,
        "hold the pooled": sum(holds(each.interval, pooled) for each in found),
        "repeats spread %": 100 * float(logs.std(ddof=1)),
        "half width %": 100 * float(np.median([(e.interval.high - e.interval.low) / 2 / e.speedup for e in found])),
        "pairs": float(np.median([each.pairs for each in found])),
        "ms": float(np.median([each.candidate_ms for each in found])),
        "s each": seconds / len(found),
    }


def holds(interval: Interval, value: float) -> bool:
    """Whether an interval contains a value."""
    return interval.low <= value <= interval.high


class SimulatedClock:
    """Calls return the nanoseconds that they take."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def now_s(self) -> float:
        """Seconds that have gone by."""
        return self._now_s

    def time(self, call: Call) -> Reading:
        """The time that the call says it takes."""
        nanoseconds = call()
        assert isinstance(nanoseconds, int)
        self._now_s += nanoseconds / 1e9
        return Reading(nanoseconds=nanoseconds)


def simulate(spread: float, searches: int, seed: int) -> list[dict[str, object]]:
    """Searches over ten candidates that are all equally fast, 1.5 times as fast as fp32.

    Args:
        spread: Standard deviation between sessions of one model, as a share.
        searches: How many.
        seed: Seed of the noise.
    """
    generator = np.random.default_rng(seed)
    dropped = {"interval under the best figure": 0, "interval under the best interval": 0}
    best: dict[str, list[float]] = {rule: [] for rule in dropped}
    raced: list[float] = []
    for search in range(searches):
        baseline = simulated_model(generator, 3.0, spread)
        candidates = [simulated_model(generator, 2.0, spread) for _ in range(10)]
        found = [
            compare_latency(baseline, each, LatencyOptions(), seed=search, clock=SimulatedClock())
            for each in candidates
        ]
        for rule in dropped:
            kept: list[LatencyComparison] = []
            for each in found:
                top = max(kept, key=lambda other: other.speedup, default=None)
                floor = 0.0 if top is None else top.speedup if rule.endswith("figure") else top.interval.low
                undecided = top is not None and not top.decided and rule.endswith("interval")
                if each.interval.high < floor and not undecided:
                    dropped[rule] += 1
                else:
                    kept.append(each)
            best[rule].append(max(each.speedup for each in kept))
        fresh = [simulated_model(generator, 2.0, spread) for _ in range(4)]
        race: RaceResult = race_latency(baseline, fresh, LatencyOptions(), seed=search, clock=SimulatedClock())
        raced.append(race.speedups[race.order[0]])
    return [
        {
            "sessions differ by %": 100 * spread,
            "pruned where": rule,
            "equals pruned %": 100 * dropped[rule] / (10 * searches),
            "best figure overstated %": 100 * (float(np.mean(best[rule])) / 1.5 - 1),
            "the race's overstated %": 100 * (float(np.mean(raced)) / 1.5 - 1),
        }
        for rule in dropped
    ]


def simulated_model(generator: np.random.Generator, milliseconds: float, spread: float) -> list[Call]:
    """Three sessions of a model whose calls take a little longer now and then."""

    def opened_one() -> Call:
        own = milliseconds * 1e6 * math.exp(spread * generator.standard_normal())
        return lambda: int(own * math.exp(0.05 * abs(generator.standard_normal())))

    return [opened_one() for _ in range(3)]


if __name__ == "__main__":
    main()
