"""What a framework adapter has to do (``contract.py``), and what it may do beyond that (``capabilities.py``)."""

from autotune.adapter.capabilities import (
    CostModel,
    DataDependentSpace,
    HostFindings,
    LocalErrors,
    PortabilityCheck,
    Preparation,
    given_model,
)
from autotune.adapter.contract import Adapter, Array, Execution, Feeds, Model, ModelT, Runner, TensorSpec

__all__ = [
    "Adapter",
    "Array",
    "CostModel",
    "DataDependentSpace",
    "Execution",
    "Feeds",
    "HostFindings",
    "LocalErrors",
    "Model",
    "ModelT",
    "PortabilityCheck",
    "Preparation",
    "Runner",
    "TensorSpec",
    "given_model",
]
