"""The figures, one module each. A new module with a FIGURE is found by its being here.

**To add a figure**: a module that ends in `FIGURE = Figure(...)`, whose fields `figures/figure.py` explains; the
smallest is in `docs/site/how-to/add-a-figure.md`.

**To add a claim** that it tests: a `[[claim]]` with a `[[claim.row]]` in `figures/claims.toml`, whose header explains
the fields; `claim(id, part)` and `row_of` in `verdicts`; and a line in `tests/figures/planted.py`, by which
`tests/figures/test_every_claim.py` plants an effect and expects its verdict.
"""
