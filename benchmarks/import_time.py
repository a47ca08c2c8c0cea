"""Processor time and packages of ``import autotune``, of its first use, and of the command line's help.

Each line is the least of several new processes, so that what else the machine does counts little. Disk caches are warm.
Run it as ``python benchmarks/import_time.py``; it ends with status 1 where a limit is passed.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path

LIMITS_S = {
    "import autotune": 0.8,
    "from autotune import tune": 0.8,
    "autotune --version": 1.0,
    "autotune --help": 1.0,
    "autotune run --help": 2.0,
}
"""Processor seconds by what is timed."""

HEAVY = ("pandas", "sklearn", "scipy", "optuna", "sqlalchemy", "onnxruntime", "onnx", "torch", "openvino")


def command(case: str) -> list[str]:
    """The arguments of the process for a case."""
    if case.startswith("autotune"):
        return [sys.executable, "-m", *case.split()]
    return [sys.executable, "-c", case]


def processor_seconds(arguments: list[str]) -> float:
    """User and system time of one process that runs to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def loaded(statement: str) -> list[str]:
    """The heavy packages that a statement imports."""
    code = f"{statement}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return ran.stdout.split()


def size_bytes(distribution: str) -> int:
    """Bytes of the files that a distribution installed."""
    files = metadata.files(distribution) or []
    paths = [Path(str(file.locate())) for file in files]
    return sum(path.stat().st_size for path in paths if path.is_file())


def required(distribution: str, found: dict[str, int]) -> dict[str, int]:
    """Sizes of a distribution and of all that it requires without extras, in bytes by name."""
    from packaging.requirements import Requirement  # noqa: PLC0415  only for `--sizes`

    for text in metadata.requires(distribution) or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = requirement.name.lower()
        if name not in found:
            found[name] = size_bytes(name)
            required(name, found)
    return found


def main() -> None:
    """Print the table, and the sizes where they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="processes per line")
    parser.add_argument("--sizes", action="store_true", help="list what pip installs with the package, by size")
    arguments = parser.parse_args()
    passed = True
    for case, limit in LIMITS_S.items():
        seconds = min(processor_seconds(command(case)) for _ in range(arguments.repeats))
        passed &= seconds <= limit
        packages = "" if case.startswith("autotune") else f"  imports {', '.join(loaded(case)) or 'none of them'}"
        print(f"{case:28} {seconds:5.2f} s of {limit} s{packages}")
    if arguments.sizes:
        sizes = required("autotune-quantization", {})
        for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
            print(f"{name:28} {size / 1e6:7.1f} MB")
        print(f"{'in all':28} {sum(sizes.values()) / 1e6:7.1f} MB")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
