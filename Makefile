# The few commands people use; CI runs all of them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: quickstart test lint format fast clean

quickstart: $(READY)  ## CREAM on SmolLM2-135M, on the CPU, in about five minutes
	$(BIN)/selfimprove run quickstart

test: $(READY)  ## the whole test suite, real model included
	$(BIN)/python -m pytest -n 2 --dist loadfile

fast: $(READY)  ## the tests that need no real model
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not real_model"

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch goes first. On Linux x86 the package index has it with CUDA (several GB): point pip at a CPU build to avoid it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; found `$(PYTHON) --version`. Give another: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info
