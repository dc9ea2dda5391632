"""One thread a process: idle threads spin, and results keep their bits only so."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may download anything

import torch

torch.set_num_threads(1)
