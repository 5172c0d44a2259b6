# Everything runs from `.venv`, which is made from `requirements.lock`; all state of the demo is in `.demo`.

VENV := .venv
BIN := $(VENV)/bin
DEPENDENCIES := $(VENV)/dependencies.installed
INSTALLED := $(VENV)/stowage.installed

# The first of these that runs and is 3.11; a version manager's shim can exist without a Python behind it.
PYTHON ?= $(shell for python in python3.11 python3 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && { echo $$python; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help demo up check test bench lock clean

help:  ## Show the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## Run the whole job on this machine, print its figures and stop everything
	@$(BIN)/python -m demo run

up: $(INSTALLED)  ## Start the same services and leave them running until Ctrl-C
	@$(BIN)/python -m demo up

check: $(INSTALLED)  ## Lint, types and quick tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest -m "not slow"

test: check  ## Everything, with real servers and training
	$(BIN)/pytest -m slow

bench: $(INSTALLED)  ## Measure solvers, throughput, memory; keep the tables in benchmarks/results.md
	@$(BIN)/python -m benchmarks --output benchmarks

lock: $(INSTALLED)  ## Resolve the dependencies of pyproject.toml anew
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --generate-hashes --python-version 3.11 \
		--python-platform x86_64-unknown-linux-gnu --no-annotate --no-header -o requirements.lock

clean:  ## Remove the environment, the demo's state and all caches
	rm -rf $(INSTALLED) $(DEPENDENCIES) $(VENV) .demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find packing training plugins dags demo benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are written last, so an installation that was broken off is made again from the start.
$(DEPENDENCIES): requirements.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 is needed and was not found; install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@touch $@

$(INSTALLED): $(DEPENDENCIES) pyproject.toml
	$(BIN)/pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
