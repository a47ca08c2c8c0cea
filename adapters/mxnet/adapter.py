"""The MXNet adapter: the contract's methods, each in a file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from autotune.adapter import Example, Execution, Feeds, Runner
from autotune.adapters.mxnet.calibration import calibrate
from autotune.adapters.mxnet.load import read_model
from autotune.adapters.mxnet.model import MxnetModel
from autotune.adapters.mxnet.quantize import apply_config
from autotune.adapters.mxnet.save import save_model
from autotune.adapters.mxnet.session import MxnetRunner
from autotune.adapters.mxnet.space import beyond_integers, tuning_space, without_integers
from autotune.calibration import CalibrationStatistics
from autotune.config import QuantizationConfig
from autotune.host import current_host
from autotune.space import TuningSpace

PACKAGES = ("mxnet",)
"""Packages whose versions are part of the host's identity."""


class MxnetAdapter:
    """Symbols with parameters and Gluon blocks on MXNet's CPU; see :class:`autotune.adapter.Adapter`."""

    name = "mxnet"
    suffix = "-symbol.json"
    packages = PACKAGES

    def load(self, source: object, example: Example | None = None) -> MxnetModel:
        """Read the two files of a symbol, or trace a ``HybridBlock`` with ``example``.

        Raises:
            ModelError: It is missing, corrupt, without parameters, or a block that cannot be traced.
            DataError: Shapes are taken from the data, and the data do not fit.
        """
        return read_model(source, example)

    def space(self, model: MxnetModel) -> TuningSpace:
        """The choices of each op on this host."""
        return tuning_space(model.ops, current_host(PACKAGES))

    def calibrate(self, model: MxnetModel, batches: Iterable[Feeds], *, seed: int) -> CalibrationStatistics:
        """Gather the statistics of all tensors that an int8 op reads or writes.

        Raises:
            DataError: There is no batch, or a batch that the model cannot read.
        """
        return calibrate(model, batches, seed)

    def calibrated_space(
        self, space: TuningSpace, model: MxnetModel, statistics: CalibrationStatistics
    ) -> tuple[TuningSpace, Sequence[str]]:
        """The space without what the data rule out; see :class:`autotune.adapter.DataDependentSpace`."""
        names, notes = beyond_integers(model.ops, statistics)
        return without_integers(space, names), notes

    def apply(self, model: MxnetModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> MxnetModel:
        """The candidate, quantized by MXNet's own pass with the ranges of the statistics.

        Raises:
            ApplyError: The config names an op that cannot be quantized, or a tensor has no statistics.
        """
        return apply_config(model, config, statistics)

    def runner(self, model: MxnetModel, execution: Execution) -> Runner:
        """The model on the CPU, with oneDNN.

        Raises:
            ApplyError: MXNet was started with other threads than those of ``execution``.
        """
        return MxnetRunner(model, execution)

    def save(self, model: MxnetModel, path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:
        """Write the symbol to ``path`` and its parameters beside it; ``metadata`` goes into the symbol.

        Raises:
            WorkspaceError: A file cannot be written.
        """
        return save_model(model, path, metadata)

    def saturating_ops(self, model: MxnetModel) -> Sequence[str]:
        """Ops of a candidate that can saturate on x86 without VNNI; see :class:`autotune.adapter.PortabilityCheck`."""
        return model.at_risk
