# make reproduce   every CPU figure and the claims report        make test    the test suite
#                  (FULL=1: tune and compute everything again, hours; BUDGET=5: core-minutes of what is computed)
# make lint        ruff, and mypy on sims/core                   make bench   speed, as ratios
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
export OMP_WAIT_POLICY ?= PASSIVE
export OMP_NUM_THREADS ?= 1

.PHONY: reproduce test lint bench mutants clean
reproduce: .venv/.core
	$(BIN)/python -m figures --jobs $(JOBS) $(if $(FULL),--full) $(if $(BUDGET),--budget $(BUDGET))

test: .venv/.test
	$(BIN)/python -m pytest -n $(JOBS)

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.test
	$(BIN)/python -m tests.benchmarks

# Can the tests fail? A random sample of wrong changes, of which the fast tests should kill nine in ten; within the hour.
MUTANTS ?= 300
mutants: .venv/.test
	$(BIN)/python -m tests.mutation --mutants $(MUTANTS) --workers $(JOBS)

# A stamp older than pyproject.toml means that the dependencies may have changed.
.venv/.core: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "onoff needs Python 3.11 or later; try: make PYTHON=python3.12"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv \
	  || { rm -rf .venv; echo "No virtual environment could be made; on Debian: apt install python3-venv"; exit 1; }
	@echo "Installing; PyTorch is the largest part, and takes some minutes the first time."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/.test: pyproject.toml .venv/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

clean:
	rm -rf .venv results figures/out
