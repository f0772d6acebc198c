# A few commands, the same for people and CI. Each sets itself up on a fresh machine: the
# virtual environment is built once, and again only when pyproject.toml or constraints.txt change.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_DISABLE_TELEMETRY ?= 1

.PHONY: demo test check bench torture docs clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)  ## dump a teacher, distil three students, compare them
	$(BIN)/python -m tools.demo --out demo

test: $(STAMP)  ## the whole suite, on the CPU, without a network
	$(BIN)/python -m pytest --numprocesses 2

check: $(STAMP)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)  ## the figures of docs/benchmarks.md; TEACHER=folder takes a model of your own
	$(BIN)/python -m tools.bench $(if $(TEACHER),--teacher $(TEACHER))

torture: $(STAMP)  ## flips, kills, failing disks, races: hours of it; SHORT=1 takes minutes
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[torture]'
	$(BIN)/python -m tools.torture $(if $(SHORT),--short)

docs: $(STAMP)  ## write docs/cli.md and docs/kinds.md from the program
	$(BIN)/python -m tools.cli_docs
	$(BIN)/python -m tools.kinds_docs

clean:
	rm -rf $(VENV) demo build *.egg-info
