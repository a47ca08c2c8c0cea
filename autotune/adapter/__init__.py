"""The contract of a framework adapter (``contract.py``), and its optional parts (``capabilities.py``)."""

from autotune.adapter.capabilities import (
    CostModel,
    DataDependentSpace,
    DeclaresOptions,
    DeclaresPackages,
    Differentiable,
    HostFindings,
    LocalErrors,
    OwnStatistics,
    PortabilityCheck,
    Preparation,
    declared_options,
    given_model,
    host_of,
    statistics_type,
)
from autotune.adapter.contract import Adapter, Array, Execution, Feeds, Model, ModelT, Runner, Statistics, TensorSpec
from autotune.adapter.example import Example

__all__ = [
    "Adapter",
    "Array",
    "CostModel",
    "DataDependentSpace",
    "DeclaresOptions",
    "DeclaresPackages",
    "Differentiable",
    "Example",
    "Execution",
    "Feeds",
    "HostFindings",
    "LocalErrors",
    "Model",
    "ModelT",
    "OwnStatistics",
    "PortabilityCheck",
    "Preparation",
    "Runner",
    "Statistics",
    "TensorSpec",
    "declared_options",
    "given_model",
    "host_of",
    "statistics_type",
]
