"""Reward models: fitted, scored, calibrated."""
