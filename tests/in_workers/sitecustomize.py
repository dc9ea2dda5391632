"""Loaded by Python itself when a worker process starts that has this folder in its PYTHONPATH: it is disturbed as the
command is that started it (`tests.disturbances.disturb`)."""

from tests.disturbances import disturb_worker

disturb_worker()
