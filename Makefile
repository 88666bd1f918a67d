# Segtrail. Every target makes the environment (.venv) first when it is missing or out of date.

BIN := .venv/bin
READY := .venv/.ready
# A moved or copied folder has an environment that belongs to the old place.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
MOVED := moved
endif

# Compiled modules make every later start faster; some containers forbid writing them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup repro test test-slow test-long test-quiet test-gpu ui doctor clean-procs lock moved
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

setup: $(READY) ## make the environment
	@echo "setup: .venv is up to date"

$(READY): requirements.lock pyproject.toml $(MOVED)
	@bash .ci/setup

repro: $(READY) ## from raw images to a registered model; ARGS="--force" goes to dvc repro
	@$(BIN)/segtrail repro $(ARGS)

test: $(READY) ## ruff, mypy, import contracts, quick tests
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet . && echo "ruff: ok"
	@$(BIN)/mypy --no-error-summary && echo "mypy: ok"
	@report=$$($(BIN)/lint-imports 2>&1) && echo "import contracts: ok" || { echo "$$report"; exit 1; }
	@$(BIN)/python -m pytest tests -q -m "not slow and not long and not gpu and not quiet"

test-slow: $(READY) ## the tests that take more than a few seconds
	@$(BIN)/python -m pytest tests -q -m "slow and not gpu and not quiet" --durations=10

test-long: $(READY) ## those that CI has no time for
	@$(BIN)/python -m pytest tests -q -m long --durations=10

test-quiet: $(READY) ## the tests of the schedule's clock, on a machine with nothing else on it
	@$(BIN)/python -m pytest tests -q -m quiet

test-gpu: $(READY) ## the tests that need a CUDA device
	@$(BIN)/python -m pytest tests -q -m gpu

ui: $(READY) ## browse runs and models in MLflow and Prefect, until Ctrl-C
	@$(BIN)/segtrail ui

doctor: $(READY) ## what is wrong here, and how to mend it
	@$(BIN)/segtrail doctor

clean-procs: $(READY) ## end what a kill -9 left behind
	@$(BIN)/segtrail doctor --fix

lock: $(READY) ## resolve requirements.lock anew from the bounds in pyproject.toml
	@$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --universal --no-annotate --no-header \
		--python-version 3.11 --upgrade -o requirements.lock
	@git --no-pager diff --stat -- requirements.lock
