# A few commands, the same for people and CI. Each sets itself up on a fresh machine: the
# virtual environment is built once, and again only when pyproject.toml or constraints.txt change.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_DISABLE_TELEMETRY ?= 1
# Compiled once, and not by each of the hundreds of processes that the tests start.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo on-policy test check bench torture docs clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)  ## dump a teacher, distil three students, compare them
	$(BIN)/python -m tools.demo --out demo

on-policy: $(STAMP)  ## three rounds in which a student answers, its teacher judges, and it learns
	$(BIN)/python -m tools.on_policy --out on-policy

# Tests write tens of thousands of small files and wait until each is durable: in memory, where the
# machine has 4 GB to spare for them.
test: export TMPDIR ?= $(shell df -k --output=avail /dev/shm 2> /dev/null | awk 'NR == 2 && $$1 > 4000000 { print "/dev/shm" }')
test: $(STAMP)  ## the whole suite, on the CPU, without a network
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

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
	rm -rf $(VENV) demo on-policy build *.egg-info
