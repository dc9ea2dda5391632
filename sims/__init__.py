"""Toy environments on which every preference-tuning algorithm can be checked against an exact answer.

    >>> import sims
    >>> run = sims.run(sims.DPO(beta=0.1), sims.BanditR1(), updates=200, runs=20, learning_rate=0.1)
    >>> run  # run.table(), run.plot(), run.score, run.optimum
    Result(dpo on bandit_r1: 20 runs of 200 updates, final score 1.00 [1.00, 1.00])

Every public name, and where it lives, is listed in `__init__.pyi`; each is loaded when it is first used. Examples in
docstrings assume: import numpy as np; import torch; import sims; import llm.
"""

import os

from .lazy import attach

# Idle OpenMP threads spin by default and slow down other processes; this must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__getattr__, __dir__, __all__ = attach(__name__)
