# Every target sets up what it needs: uv (in .uv/, when it is not on PATH), a Python, and .venv/ from the lock file.
# PYTHON=/path/to/python3.12 chooses the Python; otherwise tools/find-python looks for one, and uv is the last to.

.DEFAULT_GOAL := help
.PHONY: help setup check test demo up bench fmt clean

# a uv that runs: pyenv's shims are on PATH for versions that are not selected
ON_PATH := $(shell uv --version >/dev/null 2>&1 && command -v uv)
UV := $(or $(ON_PATH),.uv/bin/uv)
BIN := .venv/bin
READY := .venv/.ready
export UV_PROJECT_ENVIRONMENT := .venv

HOURS ?= 24
WORKERS ?= 2
PYTEST ?=
ARGS ?=

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv with everything in it

demo: $(READY) ## Run the main job once, on embedded parts and measured data (HOURS=24)
	@$(BIN)/energy-cloud demo --hours $(HOURS) $(ARGS)

up: $(READY) ## Start everything and stay: parts, ingest, fleet, Dagster, API
	@exec $(BIN)/energy-cloud up $(ARGS)

test: $(READY) ## Run all tests, with branch coverage (WORKERS=2; PYTEST="-k market" adds options)
	@$(BIN)/pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder --cov --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=90 $(PYTEST)

check: $(READY) ## Format, lint, types, import rules: all of them, then the verdict
	@failed=; \
	for tool in "ruff format --check ." "ruff check ." mypy lint-imports; do \
	  echo "== $$tool"; $(BIN)/$$tool || failed="$$failed, $$tool"; \
	done; \
	if [ -n "$$failed" ]; then echo "make check: failed:$${failed#,}" >&2; exit 1; fi

bench: $(READY) ## Measure the figures that the documentation quotes
	@for script in benchmarks/[a-z]*.py; do $(BIN)/python "$$script" || exit 1; done

fmt: $(READY) ## Format and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean: ## Remove caches and reports; .venv, .uv and .energy-cloud stay
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.* htmlcov dist
	@rm -rf dbt/target dbt/logs
	@find . -path ./.venv -prune -o -path ./.uv -prune -o -type d -name __pycache__ -exec rm -rf {} +

.uv/bin/uv:
	@echo "uv is not on PATH: installing it into .uv/"
	@tools/install-uv .uv "$${PYTHON:-$$(tools/find-python | grep . || echo python3)}"

# The order-only prerequisite brings uv where it is missing, and nothing where it is on PATH.
$(READY): pyproject.toml uv.lock | $(if $(ON_PATH),,.uv/bin/uv)
	@python="$${PYTHON:-$${UV_PYTHON:-$$(tools/find-python)}}"; \
	if [ -n "$$python" ]; then export UV_PYTHON="$$python"; else \
	  echo "No Python 3.12 or 3.13 was found on this machine: uv downloads one."; fi; \
	$(UV) sync --frozen --extra embedded --extra lstm --compile-bytecode
	@touch $@
