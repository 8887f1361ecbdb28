# make demo and make test create .venv and install the package when that is missing.
PYTHON ?= $(firstword $(foreach p,python3.12 python3.13 python3.14 python3,$(if $(shell $(p) -c "import venv" 2>/dev/null && echo yes),$(p))))
VENV   := .venv
BIN    := $(VENV)/bin
MPIEXEC ?= $(BIN)/mpiexec
STAMP  := $(VENV)/installed

# One thread a process: ranks share the cores, and the problems of the tests are too small for more.
export OMP_NUM_THREADS ?= 1
MPITEST := $(BIN)/python -m pytest -q -p no:cacheprovider tests/mpi

.PHONY: help demo lint test clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   comparison of initial guesses on 6 unseen cavity flows, 2 ranks (runs/demo/)"
	@echo "make lint   ruff and mypy"
	@echo "make test   unit and case tests, then the MPI tests on 2 and 3 ranks"
	@echo "make clean  remove runs/, caches and build products (keeps .venv)"

demo: $(STAMP)
	$(MPIEXEC) -n 2 $(BIN)/lrsa-coupled bench cavity --samples 6 --json runs/demo/rows.jsonl --html runs/demo/page.html --pictures runs/demo

# mypy sees the tree as it is installed.
lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	rm -rf build/typed && mkdir -p build/typed/lrsa_coupled
	ln -s $(CURDIR)/lrsa_coupled/* $(CURDIR)/solvers $(CURDIR)/cases build/typed/lrsa_coupled/
	cd build/typed && $(CURDIR)/$(BIN)/python -m mypy --config-file ../../pyproject.toml --cache-dir ../mypy

test: $(STAMP)
	$(BIN)/python -m pytest -q -n auto --maxprocesses=4 tests/unit tests/cases
	$(MPIEXEC) -n 2 $(MPITEST)
	$(MPIEXEC) -n 3 $(MPITEST)

$(STAMP): pyproject.toml
	@"$(or $(PYTHON),python3)" -c "import sys; sys.exit(sys.version_info < (3, 12))" || \
	  { echo "lrsa-coupled needs Python 3.12 or newer with its venv module; name one with 'make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)'"; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[fem,dev]"
	@touch $@

clean:
	rm -rf runs build dist *.egg-info .pytest_cache .ruff_cache
	find lrsa_coupled solvers cases tests -name __pycache__ -prune -exec rm -rf {} +
