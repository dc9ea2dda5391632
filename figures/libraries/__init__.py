"""The losses of other libraries as plain functions, for `sims.checks`, and the runner that tries them.

Each library is executed by an interpreter of its own, in which it is installed (`requirements/`: they contradict each
other), and leaves a record in `figures/records/checks`; `python -m figures check_matrix` draws from the records alone:

    python -m venv verl
    echo "$PWD/.venv/lib/python3.11/site-packages" > verl/lib/python3.11/site-packages/shared.pth
    verl/bin/pip install --no-deps -r figures/libraries/requirements/verl.txt
    verl/bin/python -m figures.libraries.run verl

The second line lets an environment use the PyTorch of this one. What `requirements/` says of a checkout is cloned, and
given as `--checkout FOLDER --revision COMMIT`. A red cell is not published before `findings.toml` says what it means:
the tests name one that has no entry.

Read it in this order:

paths       what is said of a loss: which function of the library it is, and what it is claimed to be
onoff       this package's own
trl, liger, torchtune, openrlhf, verl, halos, rlhf_book
            one module per library; nothing of it is imported before `library()` is called
look_up     models that look log-probabilities up
stand_ins   modules that a library imports and a loss never calls, such as GPU kernels
run         the runner
findings.toml   what a red cell means in use, written by hand after looking at it, with the issue or line upstream
"""
