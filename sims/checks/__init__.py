"""Anybody's loss, as a plain function of PyTorch tensors, against what must hold of it.

    >>> def my_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    ...     return -torch.nn.functional.logsigmoid(beta * (chosen - rejected - ref_chosen + ref_rejected))
    >>> sims.checks.check_loss(my_loss, family="pair", claim="dpo", beta=0.1)
    Report(my_loss, pair, claimed to be dpo(...): 15 passed, 0 failed, ...)

The same from the command line is `python -m sims check my_module:my_loss --family pair --claim dpo --beta 0.1`, and in
pytest `parametrize_with_checks`. Read it in this order:

families      what a function takes, and batches of it
trials        relations between Python expressions, which are evaluated and printed
property      a property is data: name, rows of the table of bugs (`bugs`), statement, families, how it was seen to fail
on_batches, on_tokens, on_gradients, on_precision, on_options, on_claims
              the properties; `claims` has the exact population gradients
subject       what a function must be before it is tried, each refusal in one line
running       hypothesis searches batches and simplifies what it finds
report        what came of it; `plain` is what a counterexample's script is made of
testing, command   the doors of pytest and of the command line
adapters      this package's own algorithms as plain functions
"""

from .adapters import as_function
from .families import FAMILIES, Family
from .property import Property
from .registry import PROPERTIES
from .report import Outcome, Report
from .running import check_loss
from .testing import parametrize_with_checks

__all__ = [
    "FAMILIES",
    "PROPERTIES",
    "Family",
    "Outcome",
    "Property",
    "Report",
    "as_function",
    "check_loss",
    "parametrize_with_checks",
]
