"""Executors: where cells run."""

from magg.executors.base import make_executor

__all__ = ["make_executor"]
