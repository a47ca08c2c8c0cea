"""The machine that measures: figures of different hosts are never compared."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import archspec.cpu
import psutil
from archspec.cpu.detect import CpuidInfoCollector
from archspec.cpu.schema import CPUID_JSON

from autotune.notes import counted

_X86 = frozenset({"x86_64", "amd64", "x86", "i386", "i686"})

_PACKAGES = ("autotune-quantization", "numpy", "optuna")
"""Packages that compute or decide whatever the framework; an adapter names its own, see
:func:`autotune.adapter.host_of`."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """Everything besides the model that a figure depends on.

    Attributes:
        cpu: The processor's own name.
        architecture: Name by the operating system: ``x86_64``, ``aarch64``.
        features: Instruction set extensions, sorted.
        logical_cores: Hardware threads of the machine.
        physical_cores: Cores of the machine; None where nobody tells.
        governor: Frequency governor of the first core; None where it cannot be read.
        system: Operating system and its release.
        python: Version of the interpreter.
        packages: Versions of the packages that compute or decide; a package that is not installed is not among them.
    """

    cpu: str
    architecture: str
    features: tuple[str, ...]
    logical_cores: int
    physical_cores: int | None
    governor: str | None
    system: str
    python: str
    packages: Mapping[str, str]

    def __str__(self) -> str:
        cores = counted(self.logical_cores, "logical core")
        vnni = "with VNNI" if self.has_vnni else "without VNNI"
        packages = ", ".join(f"{name} {version}" for name, version in self.packages.items())
        return f"{self.cpu} ({self.architecture}, {cores}, {vnni}), {self.system}, Python {self.python}, {packages}"

    @property
    def has_vnni(self) -> bool:
        """Whether one instruction adds up four 8-bit products in 32 bits: VNNI on x86, the dot product on Arm."""
        return not {"avx512_vnni", "avx_vnni", "asimddp"}.isdisjoint(self.features)

    @property
    def saturates_u8s8(self) -> bool:
        """Whether a sum of two u8 x s8 products is cut to 16 bits, as on x86 without VNNI.

        Intel 64 and IA-32 Architectures Software Developer's Manual, ``VPMADDUBSW``.
        """
        return self.architecture.lower() in _X86 and not self.has_vnni

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits; equal where figures may be compared. The governor, which may change, is left out."""
        data = {name: value for name, value in self.to_json().items() if name != "governor"}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """A JSON value that :meth:`from_json` reads."""
        return {**dataclasses.asdict(self), "features": list(self.features), "packages": dict(self.packages)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            TypeError: A key is unknown or missing.
        """
        return cls(**{**data, "features": tuple(data["features"]), "packages": dict(data["packages"])})


@functools.cache
def current_host(packages: tuple[str, ...] = ()) -> Host:
    """The machine that this process runs on.

    Args:
        packages: Further ones whose versions figures depend on.
    """
    cpu, features = _cpu()
    return Host(
        cpu=cpu,
        architecture=platform.machine(),
        features=features,
        logical_cores=psutil.cpu_count(logical=True) or os.cpu_count() or 1,
        physical_cores=psutil.cpu_count(logical=False),
        governor=_governor(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages=_versions(packages),
    )


def _cpu() -> tuple[str, tuple[str, ...]]:
    """The processor's name and its features.

    archspec knows the features that a microarchitecture is defined by; those beyond, ``avx_vnni`` of a recent desktop
    processor for one, are listed by the Linux kernel alone. The kernel speaks of the machine, which under an emulator
    (``qemu-x86_64 -cpu Haswell``) is not what executes: what the instruction ``cpuid`` denies is left out.
    """
    known = archspec.cpu.host()
    features = set(known.features)
    name = platform.processor() or known.name
    for key, value in _cpuinfo().items():
        if key in ("flags", "Features"):
            features.update(value.split())
        elif key == "model name":
            name = value
    executing = _cpuid()
    if executing is not None and features & executing.denied:
        return executing.name, tuple(sorted(features - executing.denied))
    return name, tuple(sorted(features))


@dataclass(frozen=True, kw_only=True)
class _Cpuid:
    """The features of the CPU that executes this process, read with its CPUID instruction.

    Attributes:
        name: Brand of the CPU.
        denied: The features, of those that archspec can ask for, that it does not have.
    """

    name: str
    denied: frozenset[str]


def _cpuid() -> _Cpuid | None:
    """Ask by the instruction ``cpuid``; None on other architectures, and where a process may not make code."""
    if platform.machine().lower() not in _X86:
        return None
    try:
        collected = CpuidInfoCollector()
    except (SystemError, MemoryError, OSError):
        return None
    askable = {
        bit["name"] for kind in ("flags", "extension-flags") for leaf in CPUID_JSON[kind] for bit in leaf["bits"]
    }
    name = (collected.brand_string() or collected.vendor).strip()
    return _Cpuid(name=name, denied=frozenset(askable - collected.features))


def _cpuinfo() -> dict[str, str]:
    """Linux's description of the first core; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _governor() -> str | None:
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    versions = {}
    for package in sorted({*_PACKAGES, *packages}):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # run from a source tree, or a framework that this run does without
    return versions
