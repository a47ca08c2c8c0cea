"""Runs that share a study, and runs that are killed: what is lost, what is done twice, and what several gain.

    python benchmarks/workers.py speed          one process, then four, on an evaluation that sleeps
    python benchmarks/workers.py faults URL     four on a study at URL, of which two are killed, beside one alone
    python benchmarks/workers.py kills          one run, killed at random moments until it is done

The model is the quickstart's. For ``faults`` stop the server that keeps URL for 10 s meanwhile; ``--stop COMMAND`` and
``--start COMMAND`` do it.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from autotune.tuning.history import read_study

ROOT = Path(__file__).parents[1]
MAIN = "from autotune.cli import main; main()"
EXPERIMENT = """\
model: {{path: {model}}}
calibration: {{dataset: {{npz: {{path: data.npz, inputs: images}}, batch_size: 8}}}}
evaluation:
  accuracy: {{function: "sleeping:evaluate"}}
  isolation: none
  performance: {{warmup: 1, max_seconds: 0.1}}
tuning:
  strategy: {{name: {strategy}}}
  objective: size
  exit_policy: {{max_trials: {trials}}}
  workspace: work
"""
FUNCTION = """\
import time
from pathlib import Path

def evaluate(model):
    begun = time.time()
    time.sleep({seconds})
    (Path(__file__).parent / "evaluated" / f"{{begun}}-{{time.time()}}").touch()
    return 1.0
"""


def experiment(folder: Path, *, strategy: str, trials: int, seconds: float) -> Path:
    """An experiment whose evaluation sleeps, and leaves its begin and end in the folder ``evaluated``."""
    import numpy as np  # noqa: PLC0415  the processes that are measured import their own

    folder.mkdir(parents=True)
    (folder / "evaluated").mkdir()
    model = ROOT / "examples/quickstart/digits.onnx"
    np.savez(folder / "data.npz", images=np.random.default_rng(0).random((16, 1, 8, 8), np.float32))
    (folder / "sleeping.py").write_text(FUNCTION.format(seconds=seconds))
    path = folder / "experiment.yaml"
    path.write_text(EXPERIMENT.format(model=model, strategy=strategy, trials=trials))
    return path


def start(command: str, path: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start ``autotune``; its output goes to a file beside the experiment."""
    line = [sys.executable, "-c", MAIN, command, str(path), *arguments]
    with path.with_name("log").open("ab") as log:
        return subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT, cwd=path.parent)


def evaluations(path: Path) -> list[tuple[float, float]]:
    """Begin and end of each evaluation that ended."""
    names = (file.name.split("-") for file in path.with_name("evaluated").iterdir())
    return sorted((float(begun), float(ended)) for begun, ended in names)


def took(path: Path) -> float:
    """Seconds from the end of the baseline to the end of the last evaluation."""
    found = evaluations(path)
    return max(ended for _, ended in found) - found[0][1]


def account(storage: str | Path) -> str:
    """The trials of a study by state, and how many configs were tried twice."""
    trials, kept = read_study(storage)
    states = Counter(str(trial.state) for trial in trials)
    twice = len(trials) - len({trial.config for trial in trials})
    return f"{dict(states)}, {twice} configs twice, verdict {kept.get('summary', {}).get('verdict')}"


def speed(folder: Path) -> None:
    """Compare the time that 20 evaluations of 3 s take of one process and of four."""
    found = []
    for name, helpers in (("one", 0), ("four", 3)):
        path = experiment(folder / name, strategy="random", trials=20, seconds=3.0)
        run = start("run", path)
        workers = [start("worker", path) for _ in range(helpers)]
        status = [process.wait() for process in (run, *workers)]
        found.append(took(path))
        print(f"{name}: {found[-1]:.1f} s, status {status}, {account(folder / name / 'work')}", flush=True)
    print(f"four take {found[1] / found[0]:.2f} of the time of one")


def faults(folder: Path, url: str, stop: str | None, begin: str | None) -> None:
    """Kill two of four workers inside of trials, stop the server for 10 s, and compare with one that is left alone."""
    path = experiment(folder / "faults", strategy="random", trials=24, seconds=2.0)
    given = ("--set", f"tuning.storage={url}")
    run, *workers = [start(name, path, *given) for name in ("run", "worker", "worker", "worker")]
    while len(evaluations(path)) < 6:
        time.sleep(0.05)
    for victim in workers[:2]:
        victim.kill()
        victim.wait()
    if stop and begin:
        subprocess.run(stop, shell=True, check=True)
        time.sleep(10)
        subprocess.run(begin, shell=True, check=True)
    print(
        f"status {run.wait()} and {workers[2].wait()}, {len(evaluations(path))} evaluations, {account(url)}", flush=True
    )
    alone = experiment(folder / "alone", strategy="random", trials=24, seconds=2.0)
    print(f"alone: status {start('run', alone).wait()}, {account(folder / 'alone' / 'work')}")


def kills(folder: Path, times: int) -> None:
    """Kill runs at random moments until each is done, and compare what they come to with one that was not killed."""
    whole = experiment(folder / "whole", strategy="random", trials=24, seconds=0.3)
    begun = time.monotonic()
    start("run", whole).wait()
    length, rng = time.monotonic() - begun, random.Random(0)
    done = runs = 0
    while done < times:
        runs += 1
        path = experiment(folder / f"killed-{runs}", strategy="random", trials=24, seconds=0.3)
        while True:
            process = start("run", path)
            try:
                status = process.wait(timeout=rng.uniform(0.0, length / 2))
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                done += 1
        _compare(path, whole, f"run {runs}, {done} kills so far: status {status}")


def _compare(path: Path, whole: Path, what: str) -> None:
    """Print whether a run came to what another one did, and what it left behind."""
    (left, kept), (right, expected) = (read_study(each.with_name("work")) for each in (path, whole))
    best = next(trial for trial in left if trial.number == kept["summary"]["best"])
    other = next(trial for trial in right if trial.number == expected["summary"]["best"])
    ours = [each for each in psutil.process_iter(["cmdline"]) if str(path) in " ".join(each.info["cmdline"] or ())]
    print(
        f"{what}, {len(evaluations(path))} evaluations for {len(left)} trials of {len(right)}, "
        f"same configs {[trial.config for trial in left] == [trial.config for trial in right]}, "
        f"same verdict {kept['summary']['verdict'] == expected['summary']['verdict']}, "
        f"same answer {best.config == other.config}, processes left {len(ours)}",
        flush=True,
    )


def main() -> None:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "faults", "kills"))
    parser.add_argument("url", nargs="?", help="for faults")
    parser.add_argument("--stop", help="a command that stops the server")
    parser.add_argument("--start", help="one that starts it again")
    parser.add_argument("--times", type=int, default=20, help="for kills")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if options.what == "speed":
            speed(Path(name))
        elif options.what == "kills":
            kills(Path(name), options.times)
        else:
            faults(Path(name), options.url, options.stop, options.start)


if __name__ == "__main__":
    main()
