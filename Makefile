# Each target makes its own .venv when there is none, or when pyproject.toml or constraints.txt changed.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

# A home directory that cannot be written to must not matter.
WRITABLE_HOME := $(shell test -n "$$HOME" && test -d "$$HOME" && test -w "$$HOME" && echo yes)
ifneq ($(WRITABLE_HOME),yes)
export XDG_CACHE_HOME := $(CURDIR)/out/cache
export XDG_CONFIG_HOME := $(CURDIR)/out/config
export PIP_CACHE_DIR := $(CURDIR)/out/cache/pip
endif
export PREFECT_HOME ?= $(CURDIR)/out/prefect
export HF_HOME ?= $(CURDIR)/out/cache/huggingface
export MPLCONFIGDIR ?= $(CURDIR)/out/cache/matplotlib

.PHONY: help install demo test test-long coverage nightly chaos fuzz check docs reference format quality study data train clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

install: $(STAMP)  ## make .venv with the pinned packages

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo "making .venv"; $(PYTHON) -m venv .venv; }
	@echo "installing the packages named in constraints.txt (a few minutes the first time)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt setuptools
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation \
		-e '.[tune,s3,ray,dev,docs,examples]'
	@touch $@

demo: $(STAMP)  ## unpack the emoji, learn both prompts, translate the validation split, write the page (STORE=s3: on S3)
	@$(BIN)/python examples/emoji/unpack.py
ifeq ($(STORE),s3)
	@$(BIN)/python examples/object_server.py --data out/objects -- $(BIN)/lsb run examples/emoji/job-s3.yaml
else
	@$(BIN)/lsb run examples/emoji/job.yaml
endif

# One process more than the smallest machine has cores, since tests wait for a third of their time. Each has its servers.
SPREAD := -n 3 --no-loadscope-reorder --dist loadgroup

test: $(STAMP)  ## run the tests
	@$(BIN)/python -m pytest $(SPREAD)

test-long: $(STAMP)  ## run the tests that kill, plant and wait much, and only those
	@$(BIN)/python -m pytest $(SPREAD) -m long

coverage: $(STAMP)  ## run the tests and show which lines they miss (what child processes run is not counted)
	@$(BIN)/python -m pytest $(SPREAD) --cov --cov-report=term --cov-report=html

nightly: $(STAMP)  ## nights with Prefect's server, workers, queue and automation while things go wrong
	@PYTHONPATH=. $(BIN)/python benchmarks/nightly.py

chaos: $(STAMP)  ## translate the emoji on S3 while processes are killed at random (a few minutes)
	@$(BIN)/python examples/emoji/unpack.py
	@PYTHONPATH=. $(BIN)/python tests/chaos.py

fuzz: $(STAMP)  ## decode mutants of files of all sorts for ten minutes; what ends the decoder is kept in out/fuzz
	@PYTHONPATH=. $(BIN)/python tests/fuzz.py

check: $(STAMP)  ## format, lint, types, import contracts: what continuous integration asks for
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: $(STAMP)  ## build the documentation as a site in out/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "out/site/index.html"

reference: $(STAMP)  ## write docs/commands.md and docs/configuration.md anew, from the commands and the settings
	@$(BIN)/python -m lsb.cli.reference > docs/commands.md
	@$(BIN)/python -m lsb.config.reference > docs/configuration.md

format: $(STAMP)  ## let ruff format and mend the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

study: $(STAMP)  ## measure every method beside the others at every cost, about 100 minutes; goes on where it was ended
	@$(BIN)/python benchmarks/quality.py --out docs/benchmarks

quality: $(STAMP)  ## measure the embedded model and write examples/emoji/RESULTS.md
	@$(BIN)/python examples/emoji/quality.py

data: $(STAMP)  ## build examples/emoji/emoji.parquet from the pinned npm packages (needs npm)
	@$(BIN)/python examples/emoji/build.py

train: $(STAMP)  ## train the embedded model (hours on a CPU; goes on where it stopped)
	@$(BIN)/python examples/emoji/train.py all

clean:  ## remove what can be made again: caches and the demo's outputs, not .venv nor a training in out/train
	rm -rf out/site out/coverage .coverage out/store out/objects out/emoji out/cache out/prefect .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
