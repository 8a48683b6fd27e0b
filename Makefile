# Set-up, training and checks. `make help` says what there is; every target sets up what it needs.
#
# PYTHON     which Python to use, 3.11 or later; one that is named gets an environment of its own,
#            .venv-python3.12 for example              make test PYTHON=python3.12
# ARGS       passed on to the command behind a target  make train ARGS="stablenet --depth 100"
# PIP_FLAGS  passed on to pip install                  make train PIP_FLAGS="--index-url ..."

VENV := .venv$(if $(PYTHON),-$(notdir $(PYTHON)))
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-

# A stamp is as new as the last successful installation of its extra.
INPUTS := pyproject.toml constraints.txt
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt $(PIP_FLAGS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help train test fast lint format docs rules bench pictures constraints clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

train: $(STAMP)train ## train the small GPT, or what ARGS says
	@$(BIN)/trimtab train $(ARGS)

test: $(STAMP)dev ## run all tests and the docstrings' examples
	$(BIN)/python -m pytest -q $(ARGS)

fast: $(STAMP)dev ## run the tests that take less than two seconds
	$(BIN)/python -m pytest -q -m "not slow" $(ARGS)

lint: $(STAMP)dev ## check style, formatting, types and import floors
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)dev ## format and repair what ruff can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(STAMP)dev ## build the documentation into site/, strictly
	$(BIN)/zensical build --clean --strict

rules: $(STAMP)dev ## write the pages of the rules, docs/rules, from their docstrings
	$(BIN)/python docs/assets/rule_pages.py $(ARGS)

bench: $(STAMP)dev ## run every benchmark; takes minutes and wants a quiet machine
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python "$$script" $(ARGS); done

pictures: $(STAMP)dev ## make the pictures of the README from a run; takes minutes
	$(BIN)/python docs/assets/pictures.py

constraints: ## pin today's newest versions into constraints.txt; TORCH chooses that of torch
	@PYTHON="$(PYTHON)" PIP_FLAGS="$(PIP_FLAGS)" TORCH="$(TORCH)" sh .ci/constraints

clean: ## remove the environment and everything built; keeps runs/
	rm -rf .venv .venv-* site .cache build dist
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(STAMP)train: $(INPUTS)
	@PYTHON="$(PYTHON)" sh .ci/venv $(VENV)
	@echo "Installing what training needs into $(VENV), once: about a minute."
	@$(INSTALL) -e '.[train]'
	@touch $@

$(STAMP)dev: $(INPUTS)
	@PYTHON="$(PYTHON)" sh .ci/venv $(VENV)
	@echo "Installing what development needs into $(VENV), once: a minute or two."
	@$(INSTALL) -e '.[dev]'
	@touch $(STAMP)train $@
