from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import autotune
from autotune.evaluation.lifeline import NO_RECYCLING

MAIN = """
import os, sys
from loky import ProcessPoolExecutor
from autotune.evaluation.isolation.worker import start
from autotune.evaluation.lifeline import follow
executor = ProcessPoolExecutor(max_workers=1, timeout=None, initializer={initializer}, initargs=(os.getpid(),))
print(executor.submit(os.getpid).result(), flush=True)
sys.stdin.read()
"""
TIMEOUT_S = 60.0
"""Never reached by a worker that ends, however busy the machine is."""


@pytest.mark.parametrize("initializer", ["start", "follow"])
def test_a_worker_ends_with_a_main_process_that_is_killed(initializer: str) -> None:
    script = MAIN.format(initializer=initializer)
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as main:
        assert main.stdout is not None
        worker = psutil.Process(int(main.stdout.readline()))
        main.kill()
    gone, alive = psutil.wait_procs([worker], timeout=TIMEOUT_S)
    for process in alive:
        process.kill()
    assert gone
    assert not alive


def test_every_pool_of_the_project_has_an_initializer_that_follows() -> None:
    root = Path(autotune.__file__).parent
    pools = {
        path.relative_to(root).as_posix(): path.read_text()
        for path in root.rglob("*.py")
        if "ProcessPoolExecutor(" in path.read_text()
    }
    assert {"evaluation/isolation/isolated.py", "evaluation/latency/throughput.py"} <= set(pools)
    for path, text in pools.items():
        assert text.count("ProcessPoolExecutor(") == text.count("initargs=(os.getpid(),)"), path
        assert text.count("ProcessPoolExecutor(") == text.count("env=NO_RECYCLING"), f"loky warns of leaks in {path}"


def test_a_killed_process_leaves_no_warning_of_leaks() -> None:
    code = (
        "import multiprocessing, os, signal\n"
        "held = multiprocessing.get_context('spawn').Semaphore(1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, **NO_RECYCLING}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert "leaked" not in ended.stderr
