"""Reward models.

model         a sequence classifier: scores, loading, saving
scoring       scorers of responses; pairs labelled by a scorer
data          settings and rows of preference pairs
labellers     the scorer that labels pairs
fit           training on labelled pairs
calibration   accuracy and calibration on held-out pairs
"""
