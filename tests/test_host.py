from __future__ import annotations

import dataclasses
import importlib
import json
import platform

import archspec.cpu
import pytest

from autotune import host as host_module
from autotune.adapter import host_of
from autotune.host import Host, current_host

pytestmark = pytest.mark.numeric


def test_current_host_is_described_and_survives_json() -> None:
    host = current_host()
    assert host.cpu
    assert host.features
    assert host.logical_cores >= 1
    assert {"numpy", "optuna"} <= set(host.packages) <= {"numpy", "optuna", "autotune-quantization"}
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


def test_what_the_executing_cpu_denies_is_no_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under an emulator /proc/cpuinfo still lists the machine's features."""
    listed = {"flags": "avx2 avx512_vnni fma", "model name": "The machine's"}
    monkeypatch.setattr(host_module, "_cpuinfo", lambda: listed)
    monkeypatch.setattr("archspec.cpu.host", lambda: archspec.cpu.generic_microarchitecture("x86_64"))
    emulated = host_module._Cpuid(name="The emulated", denied=frozenset({"avx512_vnni"}))
    monkeypatch.setattr(host_module, "_cpuid", lambda: emulated)
    assert host_module._cpu() == ("The emulated", ("avx2", "fma"))
    for silent in (None, host_module._Cpuid(name="The same", denied=frozenset({"avx512f"}))):
        monkeypatch.setattr(host_module, "_cpuid", lambda answer=silent: answer)
        assert host_module._cpu() == ("The machine's", ("avx2", "avx512_vnni", "fma"))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="asks x86's cpuid")
def test_the_host_is_the_cpu_that_executes() -> None:
    """numpy asks the instruction too, in code of its own."""
    found = importlib.import_module("numpy._core._multiarray_umath").__cpu_features__
    for feature, known in (("avx2", "AVX2"), ("avx512f", "AVX512F"), ("avx512_vnni", "AVX512VNNI")):
        assert (feature in current_host().features) == found[known], feature


def test_other_architectures_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert host_module._cpuid() is None


def test_a_process_that_may_not_make_code_trusts_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(host_module, "CpuidInfoCollector", refuse)
    assert host_module._cpuid() is None


def test_an_adapter_names_the_packages_that_its_figures_depend_on() -> None:
    class Declaring:
        packages = ("psutil", "no-such-package")

    own, framework_free = host_of(Declaring()), host_of(object())  # type: ignore[arg-type]  # nothing else is asked for
    assert set(own.packages) - set(framework_free.packages) == {"psutil"}
    assert list(own.packages) == sorted(own.packages)
    assert own.fingerprint != framework_free.fingerprint
