"""Policies over token sequences, all runs at once: a table of logits, a network that makes one, a transformer."""

from .categorical import CategoricalPolicy
from .causal import TransformerPolicy
from .fine_tuned import FineTuned
from .mlp import MLP, MLPPolicy
from .table import Table, TablePolicy
from .transformer import Transformer

__all__ = [
    "MLP",
    "CategoricalPolicy",
    "FineTuned",
    "MLPPolicy",
    "Table",
    "TablePolicy",
    "Transformer",
    "TransformerPolicy",
]
