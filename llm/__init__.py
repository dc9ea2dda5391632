"""Language models driven by the algorithms of `sims.core`, unchanged."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: idle OpenMP threads spin otherwise
