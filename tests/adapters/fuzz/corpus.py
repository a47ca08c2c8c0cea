"""Experiment files and models that are damaged, extreme or hostile, made from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

EXPERIMENT: dict[str, Any] = {
    "model": {"path": "model.onnx"},
    "calibration": {
        "sampling_size": 8,
        "dataset": {"npz": {"path": "data.npz", "inputs": "x"}, "batch_size": 4, "limit": 8},
    },
    "quantization": {
        "approach": "static",
        "op_type": {"Gemm": {"weight": {"granularity": "per_channel", "dtype": "s8"}}},
        "op_name": {"first": {"precision": "fp32"}},
    },
    "evaluation": {
        "accuracy": {
            "metric": "topk",
            "k": 1,
            "dataset": {"npz": {"path": "data.npz", "inputs": "x", "labels": "y"}, "batch_size": 4},
        },
        "performance": {"threads": 1, "batch_size": 1, "warmup": 1, "max_seconds": 0.05},
        "isolation": "none",
    },
    "tuning": {
        "strategy": {"name": "basic"},
        "accuracy_criterion": {"relative": 0.5},
        "objective": "size",
        "exit_policy": {"timeout": 5, "max_trials": 1},
        "random_seed": 0,
        "workspace": "work",
    },
}
"""An experiment on :func:`model` that runs in less than a second."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**400, 1e308, 5e-324, float("inf"), float("nan"), "", " ", ".", "/",
    "/dev/zero", "/dev/stdin", "/proc/self/mem", "pipe", "~nosuchuser/x", "a" * 5000, "a/" * 3000, "\0", "\ud7ff", "<fill in>",
    "sqlite:///x.db", "subprocess:getoutput", "os:system", "a:b", "int8", "per_group:0", "per_group:99999999999", "percentile:nan",
    [], {}, [[]], [None], {"": None}, {"path": {}}, {"a": {"b": {"c": []}}}, list(range(200)), "data.npz", "model.onnx", "..",
)  # fmt: skip
"""Values that take the place of those of an experiment."""

TEXTS = (
    b"", b"\0", b"\xff\xfe", b"a: &a [*a]", b"- 1", b"{", b"!!binary aGk=", b"model: !!binary aGk=", b"a: !!python/object:os.system x",
    b"[" * 20_000, b"{a: " * 5_000, b"a:\n " + b"- " * 3_000, b"? [a]\n: b", b"a: 1\na: 2", b"<<: *x", b"%YAML 9.9\n---\n", b"--- a\n--- b\n",
    b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (c + 1, c + 1, b",".join([b"*%c" % c] * 9)) for c in range(ord("a"), ord("j"))
    ),
    b"#" + b"x" * 2_000_000, b"model: !!set {a, b}", b"model: 2024-01-01", b"model: !!timestamp 2024-01-01", b"model: !!int x",
    b"tuning: {random_seed: " + b"9" * 5_000 + b"}",
)  # fmt: skip
"""Files that are no experiment."""


def model() -> onnx.ModelProto:
    """A classifier of 4 features in two layers."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (4, 8), "b1": (8,), "w2": (8, 3), "b2": (3,)}
    weights = [numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), n) for n, shape in shapes.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["out"], name="second"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", size]) for n, size in (("x", 4), ("out", 3))]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write_sound(folder: Path) -> None:
    """The model and its data, all sound."""
    rng = np.random.default_rng(1)
    (folder / "model.onnx").write_bytes(model().SerializeToString())
    x = rng.normal(size=(16, 4)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=rng.integers(0, 3, 16))


def sound(folder: Path) -> None:
    """Write an experiment with nothing wrong."""
    write_sound(folder)
    _write(folder, EXPERIMENT)


def damage(folder: Path, rng: random.Random) -> str:
    """Write an experiment that is damaged in one place or several, and say how."""
    write_sound(folder)
    way: Callable[[Path, random.Random], str] = rng.choice(
        (_values, _values, _values, _text, _model_bytes, _model_graph, _data)
    )
    return way(folder, rng)


def _write(folder: Path, experiment: object) -> None:
    (folder / "experiment.yaml").write_text(yaml.dump(experiment, allow_unicode=False, sort_keys=False))


def _values(folder: Path, rng: random.Random) -> str:
    experiment = json.loads(json.dumps(EXPERIMENT))
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, keys = experiment, []
        while isinstance(at, dict) and at:
            key = rng.choice(sorted(at))
            keys.append(key)
            if not isinstance(at[key], dict) or rng.random() < 0.15:
                at[key] = rng.choice(VALUES)
                if rng.random() < 0.05:
                    at[rng.choice(("", "\0", "unknown", key.upper()))] = rng.choice(VALUES)
                break
            at = at[key]
        done.append(".".join(keys))
    _write(folder, experiment)
    return f"values at {', '.join(done)}"


def _text(folder: Path, rng: random.Random) -> str:
    text = rng.choice(TEXTS)
    if rng.random() < 0.5:
        whole = bytearray(json.dumps(EXPERIMENT, indent=1).encode())
        for _ in range(rng.randint(1, 5)):
            whole[rng.randrange(len(whole))] = rng.randrange(256)
        text = bytes(whole)
    (folder / "experiment.yaml").write_bytes(text)
    return f"text {text[:30]!r}"


def _model_bytes(folder: Path, rng: random.Random) -> str:
    _write(folder, EXPERIMENT)
    data = bytearray((folder / "model.onnx").read_bytes())
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    (folder / "model.onnx").write_bytes(bytes(data[: rng.choice((len(data), len(data), rng.randrange(len(data))))]))
    return "bytes of the model"


def _model_graph(folder: Path, rng: random.Random) -> str:
    _write(folder, EXPERIMENT)
    proto = model()
    tensor = rng.choice(proto.graph.initializer)
    node = rng.choice(proto.graph.node)
    changes: dict[str, Callable[[], object]] = {
        "negative dims": lambda: tensor.dims.__setitem__(0, -rng.randrange(9)),
        "huge dims": lambda: tensor.dims.__setitem__(0, 2 ** rng.randrange(20, 63)),
        "data type": lambda: setattr(tensor, "data_type", rng.randrange(-2, 40)),
        "op type": lambda: setattr(node, "op_type", rng.choice(("", "NoSuchOp", "Loop", "If", "Conv"))),
        "missing input": lambda: node.input.__setitem__(0, "nowhere"),
        "cycle": lambda: node.input.__setitem__(0, "out"),
        "same name": lambda: node.output.__setitem__(0, "x"),
        "no opset": lambda: setattr(proto.opset_import[0], "version", rng.choice((-1, 0, 1, 10**6))),
        "no outputs": lambda: proto.graph.ClearField("output"),
        "no inputs": lambda: proto.graph.ClearField("input"),
        "external": lambda: _external(tensor, rng),
    }
    name = rng.choice(sorted(changes))
    changes[name]()
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    return f"graph: {name}"


def _external(tensor: onnx.TensorProto, rng: random.Random) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    places = ("/etc/passwd", "../../etc/passwd", "nothing.bin", "data.npz", "", ".", "a" * 5000, "\u0000", "/dev/zero")
    fields = {
        "location": rng.choice(places),
        "offset": rng.choice(("0", "-1", "x", str(2**70))),
        "length": rng.choice(("32", "-5", "", str(2**62))),
    }
    for key, value in fields.items():
        if rng.random() < 0.9:
            tensor.external_data.add(key=key, value=value)


def _data(folder: Path, rng: random.Random) -> str:
    _write(folder, EXPERIMENT)
    arrays: dict[str, Any] = dict(np.load(folder / "data.npz"))
    x = arrays["x"]
    name, change = rng.choice(
        [
            ("nan", {"x": x * np.nan}), ("inf", {"x": x * np.inf}), ("wide", {"x": x.astype(np.float64) * 1e300}),
            ("text", {"x": x.astype(str)}), ("complex", {"x": x.astype(complex)}), ("shape", {"x": x[:, :2]}),
            ("empty", {"x": x[:0]}), ("flat", {"x": x.ravel()}), ("labels", {"y": arrays["y"] + 7}),
            ("negative", {"y": arrays["y"] - 9}), ("float labels", {"y": arrays["y"] + 0.5}), ("few", {"y": arrays["y"][:3]}),
            ("structured", {"x": np.zeros(16, [("a", "f4")])}), ("dates", {"x": np.zeros((16, 4), "M8[s]")}),
        ]
    )  # fmt: skip
    np.savez(folder / "data.npz", **(arrays | change))
    if rng.random() < 0.5:
        whole = bytearray((folder / "data.npz").read_bytes())
        for _ in range(rng.randint(1, 4)):
            whole[rng.randrange(len(whole))] = rng.randrange(256)
        (folder / "data.npz").write_bytes(bytes(whole))
        name += " and damaged bytes"
    return f"data: {name}"
