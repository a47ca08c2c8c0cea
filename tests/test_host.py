from __future__ import annotations

import dataclasses
import json

import pytest

from autotune.host import Host, current_host


def test_current_host_is_described_and_survives_json() -> None:
    host = current_host()
    assert host.cpu
    assert host.features
    assert host.logical_cores >= 1
    assert {"numpy", "onnx", "onnxruntime", "optuna"} <= set(host.packages)
    again = Host.from_json(json.loads(json.dumps(host.to_json())))
    assert again == host
    assert again.fingerprint == host.fingerprint


def test_fingerprint_changes_with_what_figures_depend_on() -> None:
    host = current_host()
    for change in ({"cpu": "another"}, {"logical_cores": 999}, {"packages": {"onnxruntime": "0.1"}}):
        assert dataclasses.replace(host, **change).fingerprint != host.fingerprint
    assert dataclasses.replace(host, governor="powersave").fingerprint == host.fingerprint


@pytest.mark.parametrize(
    ("architecture", "features", "vnni", "saturates"),
    [
        ("x86_64", ("avx2", "avx512_vnni"), True, False),
        ("AMD64", ("avx2", "avx_vnni"), True, False),
        ("x86_64", ("avx2",), False, True),
        ("aarch64", ("asimddp",), True, False),
        ("aarch64", ("asimd",), False, False),
    ],
)
def test_who_saturates(architecture: str, features: tuple[str, ...], vnni: bool, saturates: bool) -> None:
    host = dataclasses.replace(current_host(), architecture=architecture, features=features)
    assert (host.has_vnni, host.saturates_u8s8) == (vnni, saturates)
