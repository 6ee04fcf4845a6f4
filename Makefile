# Every target works from a fresh clone with Python 3.11 or later, make and a package index.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Two processes run the tests, a file each at a time; the long files are collected first.
JOBS   ?= 2
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
# Real processes keep time, and two at once on a busy machine may be too much for a test: what fails
# is run once more by itself, and says so. What fails again, or is no test, fails the check.
AGAIN  := $(BIN)/python -m pytest --last-failed --last-failed-no-failures none

.PHONY: help setup demo test check bench generate format clean
.DEFAULT_GOAL := help

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

setup: $(STAMP) ## Create .venv with everything in it, development tools included

demo: $(STAMP) ## Run the main job on loopback: server, two agents, simulated providers, live view
	$(BIN)/python -m examples.demo

test: $(STAMP) ## Run all tests
	$(PYTEST)

check: $(STAMP) ## Check format, lint, types, imports, proto, generated code and tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy policy_server agent migrations examples benchmarks tests
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf breaking --against tests/data/contract.binpb
	$(PYTEST) || { test $$? -eq 1 && echo "once more, one at a time:" && $(AGAIN); }

bench: $(STAMP) ## Measure answers, imports and changes; BENCH="--small --json results.json" passes options
	$(BIN)/python -m benchmarks $(BENCH)

generate: $(STAMP) ## Generate penstock/v1/ and docs/options.md from proto/
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=. --pyi_out=. proto/penstock/v1/*.proto
	$(BIN)/python -m grpc_tools.protoc -Iproto --grpc_python_out=. proto/penstock/v1/*_service.proto
	$(BIN)/python docs/generate_options.py

format: $(STAMP) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove what the other targets made
	rm -rf $(VENV) var .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
