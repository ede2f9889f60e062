# Every target makes its own environment in .venv first. `make help` lists them.
SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

# `make sweep-depth seed=1,2,3 args="trainer.max_epochs=40"`, `make analyze run=<run_dir>`
seed ?=
resume ?=
args ?=
run ?=
runs ?= runs
port ?= 6006

# The first of these that runs, is 3.10 to 3.13, and can make environments. PYTHON=... overrides.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.10 python3 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	>/dev/null 2>&1 && { echo $$p; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help setup sweep-depth evaluate analyze explorers site record train tensorboard test test-all test-torch test-oldest bench bench-gpu lint clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*##/ {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  seed=1,2,3          seeds of sweep-depth'
	@echo '  resume=DIR          a stopped sweep that sweep-depth finishes'
	@echo '  TORCH=2.11.0        the torch of test-torch'
	@echo '  args="key=value"    more settings of sweep-depth, evaluate, analyze and train'
	@echo '  run=DIR             the run that analyze looks at'
	@echo '  runs=DIR port=N     where evaluate, analyze and tensorboard look, and the port of the latter'
	@echo '  PYTHON=python3.12   the Python to make the environment with'

setup: $(READY) ## make the environment in .venv (3 minutes, 6 GB)

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10 to 3.13 with the venv module was found;" \
		"install one (Debian: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
		echo "error: PYTHON=$(PYTHON) is not a Python 3.10 to 3.13 with the venv module" >&2; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version); this takes some minutes, once"
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $(READY)

sweep-depth: $(READY) ## train Ladder VAEs of 1, 2, 3 and 5 levels on MNIST and compare them
	@trap '' HUP; exec $(PY) -m ladder_vae sweep $(if $(resume),"resume=$(resume)") $(if $(seed),"seed=$(seed)") $(args)

evaluate: $(READY) ## bounds on log p(x) and active units of the newest sweep, and its report
	@plan=$$(ls -t $(runs)/*/*/jobs.json 2>/dev/null | head -n 1); \
	test -n "$$plan" || { echo "error: there is no sweep below $(runs); make sweep-depth trains one" >&2; exit 1; }; \
	$(PY) -m ladder_vae.evaluate run=$${plan%/*} $(args) && $(PY) -m ladder_vae.report $${plan%/*}

analyze: $(READY) ## see what each level of a 3-level model encodes; trains one if there is none
	@$(if $(run),$(PY) -m ladder_vae.analyze run=$(run) $(args),$(PY) experiments/level_analysis/newest.py $(runs) $(args))

# Levels whose rates are estimated are the image and noise: there is nothing to play with.
explorers: $(READY) ## write the page on which one plays with levels, for each model of the package that has levels to play with
	@for name in $$($(PY) -c 'from ladder_vae.runs.checkpoints import load_run; from ladder_vae.runs.releases import released; \
		print(*(name for name in released() if not load_run(name).model.estimates_rates))'); do \
		$(PY) -m ladder_vae.explore run=$$name || exit; \
	done

site: $(VENV)/.ready-site explorers ## build the documents as a site, with a reference, into site/ (minutes)
	@$(PY) -m mkdocs build --strict --clean
	@echo site/index.html

$(VENV)/.ready-site: $(READY)
	@$(PY) -m pip install --quiet --disable-pip-version-check -e ".[site]"
	@touch $@

record: $(READY) ## train and evaluate the record model, going on where it was interrupted (hours)
	@$(PY) experiments/deep_hierarchies/record.py $(args)

train: $(READY) ## train one model: make train args="model.num_layers=3"
	@$(PY) -m ladder_vae.train $(args)

tensorboard: $(READY) ## open the dashboards of all runs at http://localhost:6006
	@$(VENV)/bin/tensorboard --logdir $(runs) --port $(port)

test: $(READY) ## run the tests (minutes)
	@$(PY) -m pytest -n 2 -m "not slow and not browser"

test-all: $(READY) ## run all tests, the slow ones too
	@$(PY) -m pytest -n 2

test-torch: ## run the tests in an environment of its own with another torch: make test-torch TORCH=2.11.0
	@$(PYTHON) tests/environments.py --torch "$(TORCH)"

test-oldest: ## run the tests with the oldest lightning, torchmetrics, numpy, ... that are allowed
	@$(PYTHON) tests/environments.py --oldest

bench-gpu: $(READY) ## measure what one NVIDIA GPU trains and evaluates, plain and replayed (minutes)
	@$(PY) -m benchmarks.gpu $(args)

bench: $(READY) ## measure the speed of training, evaluation and start (minutes; with nothing else running)
	@$(PY) -m benchmarks $(args)

lint: $(READY) ## check style, types, and that imports point one way
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

clean: ## remove the environments and caches, never runs
	rm -rf $(VENV) .venvs .pytest_cache .mypy_cache .ruff_cache build dist site
