"""Statistics of the rows of each child cell: what a config may declare, and how it is computed."""

from magg.statistics.aggregate import aggregate
from magg.statistics.declare import Compiled, Statistic, compile_statistic
from magg.statistics.registry import register_statistic, unregister_statistic

__all__ = [
    "Compiled",
    "Statistic",
    "aggregate",
    "compile_statistic",
    "register_statistic",
    "unregister_statistic",
]
