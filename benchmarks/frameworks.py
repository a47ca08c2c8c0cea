"""TensorFlow, PaddlePaddle and MXNet: ``tune`` beside each framework's own post-training tool, in one table.

Run from the root of the repository: ``python benchmarks/frameworks.py --json result.json``. Each framework has an
environment of its own, made in a temporary folder and removed; ``--python paddle=FOLDER/bin/python`` names one that is
there. In it runs ``benchmarks/frameworks_NAME.py``, which can be run by itself too. The figures of other projects (the
seeds of this one) stand beside what was measured here.

The shape of ``result`` in the file of ``frameworks_NAME.py --json FILE`` (by ``shared.write_result``):

    {
      "framework": "paddle",               name of the adapter
      "version": "3.3.1",                  of the framework's distribution
      "peer": "paddle.static.quantization PostTrainingQuantization",
      "target": 0.01,                      relative loss
      "rows": [                            one for each model, batch and way
        {
          "model": "resnet20",             resnet20, or the name of the depthwise model
          "depthwise": false,
          "batch": 1,                      samples of one timed call: 1 or 16
          "threads": 1,
          "way": "fp32",                   fp32, autotune or peer
          "images": 5000,                  images that accuracy was measured on
          "accuracy": 0.8632,              share of the images
          "relative_loss": 0.0,            share of fp32's accuracy
          "loss_half_width": 0.0,          of its paired 95 % interval
          "latency_ms": 3.1,               median of one call, the median over the races
          "speedup": 1.0,                  over the framework's fastest ordinary fp32, the median of interleaved races
          "seconds": 0.0,                  wall seconds of the way; 0 for fp32
          "evaluation_seconds": 0.0,       of autotune: wall seconds in which fp32 and the answer are evaluated once
                                           each, without which no accuracy is known; the peer evaluates nothing
          "verdict": null,                 met, missed or undecided, of autotune alone
          "ops": "",                       what the answer is made of, such as "19 int8, 2 fp32"; "fp32" where it won
          "note": ""                       a line for the reader, or nothing
        }
      ],
      "seeds": [                           figures that other projects published, where they were measured here too
        {"figure": "resnet50", "batch": 1, "vnni": true, "speedup": 2.8}
      ]
    }

``figure`` is a key of ``SEEDS`` below.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import argument_parser, print_table, write_result

ROOT = Path(__file__).resolve().parents[1]
TARGET = 0.01
TIME_SHARE = 2.0
"""Seconds that ``tune`` may take, over the seconds of the framework's own tool."""
NOISE = 0.03
"""Share of a speed by which two equal models may part in a race as long as these."""

INSTALL: dict[str, Sequence[Sequence[str]]] = {
    "tensorflow": (["tensorflow-cpu==2.21.0"], [".[tensorflow,test]"]),
    "paddle": ([".[paddle,test]"],),
    "mxnet": (
        ["--no-deps", "mxnet==1.9.1", "graphviz", "requests"],
        ["certifi", "charset-normalizer", "idna", "urllib3"],
        [".[test]"],
    ),
}
"""By framework: the arguments of each call of pip that makes its environment."""

OPTIONS: dict[str, Sequence[str]] = {"paddle": ("--seeds",)}
"""By framework: the options that its script is always given."""

SEEDS: dict[str, str] = {
    "resnet50": "2.79x, and 3.56x on the next generation: PaddlePaddle, CPUs with VNNI, one core, batch 1",
    "mobilenet_v1": "2.2x: PaddlePaddle, a CPU with VNNI, one core, batch 1",
}
"""By name of a figure: what was published of int8 over fp32."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One model at one batch size: what its three ways reached.

    Attributes:
        framework: Name of the adapter.
        fp32: The row of fp32, as the module's docstring describes it.
        ours: The row of ``tune``.
        peer: The row of the framework's own tool; None where it made no model.
    """

    framework: str
    fp32: Mapping[str, Any]
    ours: Mapping[str, Any]
    peer: Mapping[str, Any] | None

    def shortfalls(self) -> list[str]:
        """The requirements that were not reached, a few words each."""
        ours, peer, found = self.ours, self.peer, []
        if ours["relative_loss"] > TARGET:
            found.append(f"loses {ours['relative_loss']:.2%}")
        if peer is None:
            return found
        if peer["relative_loss"] <= TARGET and ours["speedup"] < peer["speedup"] * (1 - NOISE):
            found.append("slower than the framework's own tool")
        if ours["relative_loss"] - ours["loss_half_width"] > peer["relative_loss"]:
            found.append("loses more than the framework's own tool")
        if ours["seconds"] > TIME_SHARE * peer["seconds"]:
            share = ours["seconds"] / peer["seconds"]
            least = ours["evaluation_seconds"] / peer["seconds"]
            found.append(f"{share:.1f} times its seconds, {least:.1f} of them for two evaluations")
        return found


def environment(framework: str, folder: Path) -> Path:
    """The interpreter of a new environment with a framework and this checkout."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    for arguments in INSTALL[framework]:
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *arguments], check=True, cwd=ROOT)
    return python


def measure(framework: str, python: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The result of ``frameworks_NAME.py`` in the environment of an interpreter."""
    script = Path(__file__).with_name(f"frameworks_{framework}.py")
    with tempfile.TemporaryDirectory(prefix="autotune-") as folder:
        written = Path(folder) / "result.json"
        own = OPTIONS.get(framework, ())
        command = [str(python), str(script), "--json", str(written), "--seed", str(options.seed), *own, *options.rest]
        subprocess.run(command, check=True)
        result: dict[str, Any] = json.loads(written.read_text())["result"]
    return result


def comparisons(result: Mapping[str, Any]) -> list[Comparison]:
    """The rows of one framework by model and batch, in the order in which they were written."""
    found: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
    for row in result["rows"]:
        found.setdefault((row["model"], row["batch"]), {})[row["way"]] = row
    return [
        Comparison(framework=result["framework"], fp32=ways["fp32"], ours=ways["autotune"], peer=ways.get("peer"))
        for ways in found.values()
    ]


def table(found: Sequence[Comparison]) -> None:
    """Print all frameworks, a line each for ours and the framework's own tool."""
    rows = []
    for each in found:
        for way, row in (("autotune", each.ours), ("own tool", each.peer)):
            if row is None:
                continue
            rows.append(
                [
                    each.framework,
                    row["model"],
                    row["batch"],
                    way,
                    f"{row['relative_loss']:+.2%} ± {row['loss_half_width']:.2%}",
                    f"{row['speedup']:.2f}x",
                    f"{row['seconds']:.1f}",
                    row["ops"],
                    "; ".join(each.shortfalls()) or "reached" if way == "autotune" else "",
                ]
            )
    print()
    print_table(["framework", "model", "batch", "way", "relative loss", "over fp32", "s", "ops", "asked"], rows)


def seeds(results: Sequence[Mapping[str, Any]]) -> None:
    """Print what other projects published beside what was measured here."""
    rows = [
        [
            result["framework"],
            each["figure"],
            each["batch"],
            "yes" if each["vnni"] else "no",
            f"{each['speedup']:.2f}x",
            SEEDS[each["figure"]],
        ]
        for result in results
        for each in result.get("seeds", ())
    ]
    if rows:
        print()
        print_table(["framework", "architecture", "batch", "VNNI", "int8 over fp32 here", "published"], rows)


def main() -> None:
    """Parse the command line and run."""
    parser = argument_parser(__doc__)
    parser.add_argument("frameworks", nargs="*", default=list(INSTALL), help=f"of {', '.join(INSTALL)}")
    parser.add_argument(
        "--python", action="append", default=[], metavar="NAME=INTERPRETER", help="of an environment that is there"
    )
    parser.add_argument("--rest", nargs=argparse.REMAINDER, default=[], help="options for each framework's script")
    options = parser.parse_args()
    if unknown := [name for name in options.frameworks if name not in INSTALL]:
        sys.exit(f"A framework must be one of {', '.join(INSTALL)}, but got {' '.join(unknown)}")
    given = dict(each.split("=", 1) for each in options.python if "=" in each)
    if len(given) < len(options.python) or set(given) - set(INSTALL):
        sys.exit(f"--python must be NAME=INTERPRETER with one of {', '.join(INSTALL)}, but got {options.python}")
    results = []
    for name in options.frameworks:
        with tempfile.TemporaryDirectory(prefix="autotune-") as folder:
            python = Path(given[name]) if name in given else environment(name, Path(folder))
            results.append(measure(name, python, options))
    table([each for result in results for each in comparisons(result)])
    seeds(results)
    write_result(options.json, "frameworks", options.seed, {result["framework"]: result for result in results})


if __name__ == "__main__":
    main()
