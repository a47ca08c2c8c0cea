"""The default strategy: what it predicts, the choices that it makes of it, and what it does where predictions fail."""

from autotune.strategies.auto.auto import Auto

__all__ = ["Auto"]
