"""Language models driven by the algorithms of `sims.core`, unchanged.

    import llm, sims
    run = llm.run("tiny-min-length", algorithm=sims.DPO(beta=0.1))

Every public name, and where it lives, is listed in `__init__.pyi`; each is loaded when it is first used.
"""

import os

from sims.lazy import attach

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: idle OpenMP threads spin otherwise

__getattr__, __dir__, __all__ = attach(__name__)
