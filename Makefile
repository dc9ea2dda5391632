# make reproduce   every CPU figure and the claims report        make test    the test suite
#                  (FULL=1: tune and compute everything again, hours; BUDGET=2.2: core-minutes of what is computed)
# make lint        ruff, and mypy on sims, llm and figures      make bench   speed, as ratios
# make test-all    the long tests too, then all again in another order on another instruction set
# make notebooks   install Jupyter, and say how to start it      make notebooks-build   execute them again
# make docs        the documentation site, docs/out/html, with its links checked (REPOSITORY=https://... in its links)
# make test-portable      the numeric tests on plainer instructions than this processor's: without AVX, and with AVX2
# make test-surroundings  a selection in random order, in another language and time zone, without a home, files private
# make test-gpu    on a machine with a GPU: the tests that need one, then what tests.benchmarks.on_gpu measures
# make test-oldest the tests with the oldest versions of the dependencies that pyproject.toml declares
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
export OMP_WAIT_POLICY ?= PASSIVE
export OMP_NUM_THREADS ?= 1

.PHONY: reproduce test test-all test-portable test-surroundings test-gpu test-oldest lint notebooks notebooks-build docs bench mutants clean
reproduce: .venv/.core
	$(BIN)/python -m figures --jobs $(JOBS) $(if $(FULL),--full) $(if $(BUDGET),--budget $(BUDGET))

# Tests of one file share what they make, so a worker takes all of them. The processes that tests start would else
# compile every module again.
ONCE := env -u PYTHONDONTWRITEBYTECODE
test: .venv/.test
	$(ONCE) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# The second time with the plainest instructions that torch and oneDNN have, last test first, in another language and
# time zone: no result may depend on any of them.
PLAIN := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 LC_ALL=C TZ=Pacific/Kiritimati PYTHONHASHSEED=1
test-all: .venv/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[ray]'
	$(BIN)/python -m pytest -n $(JOBS) -m ''
	env $(PLAIN) $(BIN)/python -m pytest -n $(JOBS) --last-first

NUMERIC := tests/core tests/exact tests/policies
test-portable: .venv/.test
	env ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(BIN)/python -m pytest -n $(JOBS) $(NUMERIC)
	env ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest -n $(JOBS) $(NUMERIC)

SEED ?= 1
SELECTED := tests/core tests/experiments tests/statistics tests/llm/data tests/llm/commands
test-surroundings: .venv/.test
	umask 077; env -u HOME LC_ALL=C TZ=Asia/Kathmandu PYTHONHASHSEED=$(SEED) \
	  $(BIN)/python -m pytest -n $(JOBS) --shuffled $(SEED) $(SELECTED)

test-gpu: .venv/.test
	$(BIN)/python -m pytest --gpu -k 'on_a_gpu' tests/core tests/experiments
	$(BIN)/python -m tests.benchmarks.on_gpu --out build/on_gpu.json

# TRL, which some tests compare with, and mutmut want newer versions.
test-oldest: .venv-oldest/.test
	.venv-oldest/bin/python -m pytest -n $(JOBS) --ignore-glob '*/test_trl_*.py' --ignore tests/mutation

.venv-oldest/.test: pyproject.toml tests/oldest.py
	$(PYTHON) -m venv --clear .venv-oldest
	$(PYTHON) -m tests.oldest > .venv-oldest/requirements.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -r .venv-oldest/requirements.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: .venv/.notebooks
	@echo "Installed. To start Jupyter: $(BIN)/jupyter lab notebooks/01_one_prompt.ipynb"

notebooks-build: .venv/.test
	$(BIN)/python -m notebooks.build

docs: .venv/.docs
	$(BIN)/python -m docs.build $(if $(REPOSITORY),--repository $(REPOSITORY))
	$(BIN)/python -m docs.links docs/out/html

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

.venv/.notebooks: pyproject.toml .venv/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[notebooks]'
	@touch $@

.venv/.docs: pyproject.toml .venv/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

clean:
	rm -rf .venv .venv-oldest results figures/out docs/out
