"""A converter that needs NumPy alone, and a cache folder of its own for each test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autotune.cache import CACHE_VARIABLE
from autotune.conversion import ConverterTool

PROGRAM = """
import os, sys


def load(request):
    if request.get("fail"):
        raise ValueError(request["fail"])
    if request.get("crash"):
        os.abort()
    if request.get("quit"):
        print("no room left", file=sys.stderr)
        os._exit(3)
    if request.get("hang"):
        import subprocess, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        with open(request["hang"], "w") as file:
            file.write(f"{os.getpid()} {child.pid}")
        os.replace(request["hang"], request["hang"] + ".started")
        time.sleep(600)
    if request.get("asks"):
        input("may I?")
    if request.get("lacks"):
        __import__("no_such_module")
    return Doubling(request)


class Doubling:
    def __init__(self, request):
        self.inputs, self.outputs, self.request = request["inputs"], ["y"], request

    def export(self, path, feeds):
        path.write_bytes(b"onnx of " + ",".join(self.inputs).encode())
        return ["data were seen" if feeds else "no data were seen"]

    def run(self, feeds):
        if self.request.get("refuse"):
            raise ValueError("a shape is wrong")
        return [2 * sum(feeds[name] for name in self.inputs)]
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConverterTool:
    program = tmp_path / "doubling.py"
    program.write_text(PROGRAM)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv("AUTOTUNE_CONVERTER_TOY", raising=False)
    assert sys.executable
    return ConverterTool(
        name="toy", title="toy2onnx", program=program, modules=("json",), requirements=(("no-such-package==0",),)
    )
