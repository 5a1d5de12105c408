"""Statistics of the rows of each child cell: what a config may declare, and how it is computed."""

from magg.statistics.aggregate import aggregate
from magg.statistics.declare import Compiled, Statistic, compile_statistic, used_columns
from magg.statistics.levels import Level, aggregate_levels
from magg.statistics.merging import mergeable, why_not_mergeable
from magg.statistics.registry import register_statistic, unregister_statistic
from magg.statistics.restoring import restorable, state_of_values
from magg.statistics.states import StateSpec, from_state, merge_states, state_specs

__all__ = [
    "Compiled",
    "Level",
    "StateSpec",
    "Statistic",
    "aggregate",
    "aggregate_levels",
    "compile_statistic",
    "from_state",
    "merge_states",
    "mergeable",
    "register_statistic",
    "restorable",
    "state_of_values",
    "state_specs",
    "unregister_statistic",
    "used_columns",
    "why_not_mergeable",
]
