"""Toy problems on which every preference-tuning algorithm can be checked against an exact answer."""

import os

# Idle OpenMP threads spin by default and starve whatever else runs; this must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
