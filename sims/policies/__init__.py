"""Policies over token trees, all runs at once: a table of logits, or a network that makes one."""

from .categorical import CategoricalPolicy
from .fine_tuned import FineTuned
from .mlp import MLP, MLPPolicy
from .table import Table, TablePolicy

__all__ = ["MLP", "CategoricalPolicy", "FineTuned", "MLPPolicy", "Table", "TablePolicy"]
