# Everything runs from `.venv`, which is made from `requirements.lock`; all state of the demo is in `.demo`.
# Training also runs on the last TensorFlow for Gaudi, in `.venv-tf215`, which is made from `requirements-tf215.lock`.

VENV := .venv
BIN := $(VENV)/bin
DEPENDENCIES := $(VENV)/dependencies.installed
INSTALLED := $(VENV)/stowage.installed
TF215 := .venv-tf215
TF215_DEPENDENCIES := $(TF215)/dependencies.installed
AXE := tests/browser/node_modules/.package-lock.json

# The first of $(2) that runs and is version $(1); a version manager's shim can exist without a Python behind it.
find_python = $(firstword $(shell for python in $(2); do \
	$$python -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(1)")' 2>/dev/null && echo $$python; done))
PYTHON ?= $(call find_python,3.11,python3.11 python3 python)
# Gaudi's TensorFlow has Python 3.10; where there is none, 3.11 shows nearly as much.
PYENV_3_10 = $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.10.*/bin/python3.10)
PYTHON_TF215 ?= $(or $(call find_python,3.10,python3.10 $(PYENV_3_10)),$(PYTHON))

# Each file's tests run in one process, as its servers and fixtures are made once there.
SPREAD := -n logical --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo up check test test-all servers screenshots bench lock clean

help:  ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## Run the whole job on this machine, print its figures and stop everything
	@$(BIN)/python -m demo run

up: $(INSTALLED)  ## Start the same services and leave them running until Ctrl-C
	@$(BIN)/python -m demo up

check: $(INSTALLED)  ## Lint, types and quick tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest $(SPREAD) -m "not slow and not exhaustive"

test: check  ## Lint, types and tests, with real servers and training
	$(BIN)/pytest $(SPREAD) -m "slow and not exhaustive"

# Making raw data needs a tokenizer and no TensorFlow, so it has no place in the second environment.
# The types are checked against the library of Python 3.10, for which NumPy's stubs leave the types of arrays open.
test-all: test servers $(TF215_DEPENDENCIES)  ## As test, and what takes minutes, and training on TensorFlow 2.15 too
	$(BIN)/mypy --python-version 3.10 --follow-imports silent --no-warn-return-any --package training
	$(TF215)/bin/python -m pytest $(SPREAD) -m "not exhaustive" --ignore tests/training/test_create_pretraining_data.py tests/training
	STOWAGE_TF215_PYTHON=$(abspath $(TF215)/bin/python) $(BIN)/pytest $(SPREAD) -m exhaustive

# Debian keeps PostgreSQL's programs outside of the PATH.
servers: $(AXE)  ## Install PostgreSQL, Redis, Chromium and axe-core for the longest tests, if they are not there
	@if ! { command -v redis-server && { command -v initdb || ls /usr/lib/postgresql/*/bin/initdb; }; } >/dev/null 2>&1; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql redis-server; fi
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }

$(AXE): tests/browser/package-lock.json
	@command -v npm >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends npm; }
	npm ci --prefix tests/browser --ignore-scripts --no-audit --no-fund

screenshots: demo servers  ## Take the README's pictures anew
	$(BIN)/python -m tests.browser.screenshots

bench: $(INSTALLED)  ## Measure solvers, throughput, memory; keep the tables in benchmarks/results.md
	@$(BIN)/python -m benchmarks --output benchmarks

LOCK := $(BIN)/uv pip compile --generate-hashes --no-python-downloads --python-platform x86_64-unknown-linux-gnu \
	--no-annotate --no-header
lock: $(INSTALLED)  ## Resolve the dependencies of pyproject.toml anew
	$(LOCK) --python-version 3.11 pyproject.toml --all-extras --group dev -o requirements.lock
	$(LOCK) --python-version 3.10 --group pyproject.toml:tf215 -o requirements-tf215.lock
	$(LOCK) --python-version 3.11 pyproject.toml --extra airflow --extra celery --extra server --group installing -c requirements.lock -o docker/airflow.lock
	$(LOCK) --python-version 3.11 pyproject.toml --extra training -c requirements.lock -o docker/worker.lock
	$(LOCK) --python-version 3.11 --group pyproject.toml:gpu -c requirements.lock -o docker/gpu.lock
	$(LOCK) --python-version 3.10 --group pyproject.toml:gaudi -c requirements-tf215.lock -o docker/gaudi.lock

clean:  ## Remove the environment, the demo's state and all caches
	rm -rf $(INSTALLED) $(DEPENDENCIES) $(VENV) $(TF215_DEPENDENCIES) $(TF215) .demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
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

$(TF215_DEPENDENCIES): requirements-tf215.lock
	@test -n "$(PYTHON_TF215)" || { echo "Python 3.10 or 3.11 is needed and was not found; name it: make PYTHON_TF215=/path/to/python3.10" >&2; exit 1; }
	rm -rf $(TF215)
	$(PYTHON_TF215) -m venv $(TF215)
	$(TF215)/bin/pip install --disable-pip-version-check --no-deps --require-hashes -r requirements-tf215.lock
	@touch $@
