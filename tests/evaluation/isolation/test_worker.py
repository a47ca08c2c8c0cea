"""The worker process as such."""

from __future__ import annotations

import subprocess
import sys

import psutil

MAIN = """
import os, sys
from loky import ProcessPoolExecutor
from autotune.evaluation.isolation import worker
executor = ProcessPoolExecutor(max_workers=1, timeout=None, initializer=worker.start, initargs=(os.getpid(),))
print(executor.submit(worker.pid).result(), flush=True)
sys.stdin.read()
"""
TIMEOUT_S = 60.0
"""Never reached by a worker that ends, however busy the machine is."""


def test_the_worker_ends_with_a_main_process_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", MAIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as main:
        assert main.stdout is not None
        worker = psutil.Process(int(main.stdout.readline()))
        main.kill()
    gone, alive = psutil.wait_procs([worker], timeout=TIMEOUT_S)
    for process in alive:
        process.kill()
    assert gone
    assert not alive
