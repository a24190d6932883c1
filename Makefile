# thriftserve: every task by one command. `make` lists them.
#
# A machine with Python 3.11, make and gcc is enough: the environment is made in .venv when first needed.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# TensorFlow's CPU build is a quarter of the download; the CUDA build is for where there is a device.
TENSORFLOW ?= $(if $(wildcard /dev/nvidiactl),server-cuda,server-cpu)
SERVER_TYPE ?= TBatchingServer
PORT ?= 9090
PYTEST_ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# They are hundreds of processes: what the first has compiled the others need not.
unexport PYTHONDONTWRITEBYTECODE
# Tests and demos start servers: their TensorFlow needs to say only what is wrong.
export TF_CPP_MIN_LOG_LEVEL ?= 2

.DEFAULT_GOAL := help
.PHONY: help venv demo serve test examples fuzz mutants check format idl docs bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  SERVER_TYPE=TForkingServer make demo    the same on another server type"
	@echo "  PYTEST_ARGS='-k settings' make test     some of the tests"

# The stamp stands for the whole environment: as long as setup.cfg is no newer, nothing is installed again.
STAMP := $(VENV)/.installed-$(TENSORFLOW)
$(STAMP): setup.cfg
	@test -n "$(PYTHON)" || { echo "no python3 found: install Python 3.11 or later, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than 3.11: name a newer one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "making the environment in $(VENV): some minutes the first time, TensorFlow is a large download"
	$(BIN)/python -m pip install --quiet --editable '.[$(TENSORFLOW),gateway,bench,dev]'
	@touch $@

venv: $(STAMP) ## the environment in .venv

demo: $(STAMP) ## train a small network on digits, serve it, classify real scans through it
	$(BIN)/python examples/demo --server-type $(SERVER_TYPE)

serve: $(STAMP) ## the demo's server, left running
	$(BIN)/python examples/demo --server-type $(SERVER_TYPE) --serve --port $(PORT)

test: $(STAMP) ## every test
	$(BIN)/python -m pytest -n 3 --dist loadfile $(PYTEST_ARGS)

# An environment of its own: `make test` needs none of it. With PyTorch too: TORCH=torch make examples
examples: ## the Python models of examples/python, with ONNX Runtime and what else they need
	@test -x .venv-examples/bin/python || "$(PYTHON)" -m venv .venv-examples
	.venv-examples/bin/python -m pip install --quiet --editable '.[$(TENSORFLOW),examples,dev]' $(TORCH)
	THRIFTSERVE_TEST_EXAMPLES=all .venv-examples/bin/python -m pytest tests/integration/servers/test_python_examples.py

fuzz: $(STAMP) ## more and more bad requests to the HTTP side: FUZZ_TIMES=100 FUZZ_SEED=7 make fuzz
	FUZZ_TIMES=$${FUZZ_TIMES:-20} $(BIN)/python -m pytest --timeout 0 tests/integration/gateway/test_gateway_fuzz.py

mutants: $(STAMP) ## change the code at random and count what the tests notice: MUTANTS='--count 20 --seed 2' make mutants
	$(BIN)/python tests/support/mutants.py $(MUTANTS)

check: $(STAMP) ## lint, format, types, imports, stubs and generated pages up to date
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	idl/generate.sh --check
	$(BIN)/python -m thriftserve.settings.docs --check docs/reference/settings.md

format: $(STAMP) ## put imports and lines into their form
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

idl: $(STAMP) ## regenerate gen-py from the contracts in idl
	idl/generate.sh

docs: $(STAMP) ## regenerate docs/reference/settings.md from the code
	$(BIN)/python -m thriftserve.settings.docs > docs/reference/settings.md.new
	mv docs/reference/settings.md.new docs/reference/settings.md

bench: $(STAMP) ## the concurrency experiments, scaled down, and their page in bench-results
	$(BIN)/thriftserve-bench experiments --quick --output bench-results/experiments.json

clean: ## remove the environment and everything generated that is not committed
	rm -rf $(VENV) .venv-examples build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
