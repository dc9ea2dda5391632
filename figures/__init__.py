"""Paper-style figures and a verdict on each claim, one module a figure; `python -m figures` runs them."""
