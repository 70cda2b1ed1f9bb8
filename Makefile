# Everything runs in .venv, which each target makes first. Python 3.11 or newer is all it needs.
# CPU torch comes first, so that nothing pulls another one. For CUDA:
#   make demo TORCH="torch==2.13.0" EXTRAS=dev,cuda
# with the torch wheel that fits your driver.
PYTHON ?= python3
TORCH ?= torch==2.13.0
EXTRAS ?= dev
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check format help

help:  ## Show this help
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.installed  ## Pictures in, animated avatar out: leaves the result in demo_out/
	$(BIN)/fastgha demo -o demo_out

test: $(VENV)/.installed  ## Run the tests
	$(BIN)/python -m pytest -n 2

check: $(VENV)/.installed  ## Lint and check types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.installed  ## Put the code into its standard shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$(EXTRAS)]"
	touch $@
