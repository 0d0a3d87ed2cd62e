# Every target sets itself up: the stamp is rebuilt when pyproject.toml or constraints.txt is newer than it.
# Needs only make and Python 3.11 or newer.  PYTHON=/path/to/python and VENV=folder may be given.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.mithridate-setup
# One thread a test process: two of them fill two cores, and results do not depend on the thread count.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
WORKERS ?= auto
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup audit test lint bench

help:
	@echo 'make setup   install mithridate and its tools into $(VENV), once'
	@echo 'make audit   poison the embedded digits data set and report whether it worked (offline)'
	@echo 'make test    the whole test suite'
	@echo 'make lint    ruff, formatting, mypy --strict, import rules'
	@echo 'make bench   speed and memory as ratios within one run'

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo 'mithridate needs Python 3.11 or newer, and there is no python3 here' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit("mithridate needs Python 3.11 or newer, got " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@# Also where an earlier attempt ended half-way and left a Python without pip.
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,byzantine,ownership]'
	@touch $@

audit: $(STAMP)
	$(BIN)/mithridate audit --demo

test: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	@for script in benchmarks/[!_]*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done
