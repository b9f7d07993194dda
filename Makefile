# Every target sets up what it needs: a fresh clone with Python 3.11, pip and make is enough.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# The uv on PATH, else a private one.
UV ?= $(shell command -v uv || echo .uv/bin/uv)
export UV

MEMBERS := $(patsubst packages/%/pyproject.toml,%,$(wildcard packages/*/pyproject.toml))
STAMP := .setup-stamp
BIN := .venv/bin
RECIPE ?= tiny_cpu
ARGS ?=

.PHONY: help setup lock lock-check lint type test test-shared reproduce results new-paper clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z][a-z%-]*:.*## / {sub("%", "<name>", $$1); printf "  make %-18s %s\n", $$1, $$2}' Makefile
	@echo "  <name> is one of: shared $(MEMBERS)"

setup: $(STAMP) ## Install everything into .venv, each file checked against the hashes in uv.lock

# --frozen after our own check: --locked refuses a lock that does not name the user's own index.
$(STAMP): uv.lock pyproject.toml shared/pyproject.toml $(wildcard packages/*/pyproject.toml) | $(UV)
	@test -x $(BIN)/python || $(UV) venv --clear
	@mkdir -p build
	$(UV) export --quiet --frozen --all-packages --no-emit-workspace --format requirements.txt --output-file build/requirements.txt
	$(UV) pip sync --require-hashes build/requirements.txt
	$(PYTHON) scripts/lock.py --check
	$(UV) sync --frozen --all-packages
	@touch $@

.uv/bin/uv:
	$(PYTHON) -m pip install --quiet --upgrade --target .uv 'uv>=0.9'

lock: | $(UV) ## Resolve uv.lock again, keeping locked versions; ARGS="--upgrade [NAME ...]" for newer ones
	$(PYTHON) scripts/lock.py $(ARGS)

lock-check: | $(UV) ## Check that uv.lock is up to date and names no address
	$(PYTHON) scripts/lock.py --check

lint: $(STAMP) ## Check style, format and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(STAMP) ## Check types
	$(BIN)/pyright

test: $(STAMP) ## Run every test that is neither slow nor needs a GPU; ARGS="-m slow" for the others
	$(BIN)/pytest -m "not slow and not gpu" $(ARGS)

test-shared: $(STAMP)
	$(BIN)/pytest -m "not slow and not gpu" shared/tests $(ARGS)

test-%: packages/%/pyproject.toml $(STAMP) ## Run the tests of one package
	$(BIN)/pytest -m "not slow and not gpu" packages/$*/tests $(ARGS)

train-%: packages/%/pyproject.toml $(STAMP) ## Train one package; RECIPE=tiny_cpu, ARGS="--trainer.max_steps 10"
	$(BIN)/$* fit --config packages/$*/recipes/$(RECIPE).yaml $(ARGS)

reproduce-%: packages/%/pyproject.toml $(STAMP) ## Check one paper's claim against its baselines; ARGS="--scale gpu"
	$(BIN)/$* reproduce $(ARGS)

reproduce: $(addprefix reproduce-,$(MEMBERS)) ## Check the claim of every paper

bench-%: $(STAMP) ## Run the benchmarks of one package
	@folder=packages/$*/benchmarks; test "$*" = shared && folder=shared/benchmarks; \
	set -- $$folder/*.py; test -f "$$1" || { echo "error: no benchmarks in $$folder"; exit 2; }; \
	for script in "$$@"; do echo "$$script"; $(BIN)/python "$$script" $(ARGS) || exit 1; done

results: $(STAMP) ## Render RESULTS.md, each package's RESULTS.md and the README table from results/
	$(BIN)/python scripts/render_results.py

new-paper: $(STAMP) ## Start packages/<NAME> from scripts/template: make new-paper NAME=my-paper
	$(PYTHON) scripts/new_paper.py "$(NAME)"
	$(BIN)/ruff check --quiet --fix "packages/$(NAME)"
	$(BIN)/ruff format --quiet "packages/$(NAME)"
	$(PYTHON) scripts/lock.py
	$(BIN)/python scripts/render_results.py

clean: ## Remove caches and build output; keeps .venv, runs and results
	rm -rf build dist .pytest_cache .ruff_cache .import_linter_cache
	find shared packages tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

packages/%/pyproject.toml:
	@echo "error: no package '$*'; choose from: $(MEMBERS)"; exit 2
