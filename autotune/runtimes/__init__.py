"""Several runtimes in one run: one adapter that stands for all, their fp32 models, and which of them is searched next.

A run of one framework uses nothing of this.
"""

from autotune.runtimes.adapter import RuntimeModel, RuntimesAdapter

__all__ = ["RuntimeModel", "RuntimesAdapter"]
