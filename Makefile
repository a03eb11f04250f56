# make run        a first answer; installs into .venv when needed
# make test       the test suite       make lint      style, types, layers
# make validate   published cases      make bench     speeds, as JSON

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SCENARIO ?= scenarios/175b_12k_gpus.yaml
JOBS ?= 2

.PHONY: run test lint validate bench clean

run: $(VENV)/.run
	$(BIN)/clustersim run $(SCENARIO)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) tests

lint: $(VENV)/.dev
	$(BIN)/ruff check clustersim tests validation
	$(BIN)/ruff format --check clustersim tests validation
	$(BIN)/mypy
	$(BIN)/lint-imports

validate: $(VENV)/.run
	$(BIN)/clustersim validate --jobs $(JOBS)

bench: $(VENV)/.run
	@$(BIN)/python -m tests.benchmarks.run

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11; make run PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV)
