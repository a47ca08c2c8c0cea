"""Objects sent to other processes: closures go, and objects that belong to one process are named."""

from __future__ import annotations

import ast
import threading
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from autotune.errors import InputError
from autotune.pickling import pickled


class Holding:
    """Holds what no other process can have."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


def send(parts: dict[str, Any]) -> bytes:
    return pickled(parts, parts, why="A worker gets a copy", way_out="go without", error=InputError)


def test_a_closure_is_sent() -> None:
    factor = 3
    assert cloudpickle.loads(send({"function": lambda x: factor * x}))["function"](2) == 6


def test_what_cannot_be_sent_is_named_with_a_way_out() -> None:
    with pytest.raises(InputError) as caught:
        send({"the data": [1, 2], "the adapter": Holding()})
    message = str(caught.value)
    for part in ("A worker gets a copy, so that the adapter (a Holding) must be picklable", "lock", "or go without"):
        assert part in message


ROOT = Path(__file__).parents[1]
BETWEEN_PROCESSES = {
    "autotune/evaluation/isolation/worker.py": "from the run to its worker, through a private temporary folder",
    "autotune/evaluation/latency/throughput.py": "from a process to the one that it started, over a pipe",
    "autotune/emulation.py": "from a process to the one that it started, through a private temporary folder",
    "autotune/testing/adapters.py": "what the suite of tests pickled a line above",
    "autotune/testing/metrics.py": "what the suite of tests pickled a line above",
}
"""Who may unpickle, and whose bytes."""

UNPICKLING = ("pickle.load", "pickle.loads", "cloudpickle.load", "cloudpickle.loads", "Unpickler", "joblib.load")


def unpickles(path: Path) -> bool:
    """Whether a file reads pickles, be it through NumPy, pandas or PyTorch."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name, keywords = ast.unparse(node.func), {each.arg: ast.unparse(each.value) for each in node.keywords}
        if name in UNPICKLING or name.endswith((".Unpickler", "read_pickle")):
            return True
        if name in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False":
            return True
        if name == "torch.load" and keywords.get("weights_only") != "True":
            return True
    return False


def test_pickles_go_from_process_to_process_and_are_read_from_no_file_that_is_handed_over() -> None:
    files = [
        *(ROOT / "autotune").rglob("*.py"),
        *(ROOT / "adapters").rglob("*.py"),
        *(ROOT / "strategies").rglob("*.py"),
    ]
    found = {str(path.relative_to(ROOT)) for path in files if unpickles(path)}
    assert found == set(BETWEEN_PROCESSES)
