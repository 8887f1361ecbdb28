# make demo and make test create .venv and install the package when that is missing.
PYTHON ?= $(firstword $(foreach p,python3.12 python3.13 python3.14 python3,$(if $(shell $(p) -c "import venv" 2>/dev/null && echo yes),$(p))))
VENV   := .venv
BIN    := $(VENV)/bin
MPIEXEC ?= $(BIN)/mpiexec
STAMP  := $(VENV)/installed
COMPLEX := .venv-complex
COMPLEX_STAMP := $(COMPLEX)/installed
INFERENCE := .venv-inference

# One thread a process: ranks share the cores, and the problems of the tests are too small for more.
export OMP_NUM_THREADS ?= 1
MPITEST := $(BIN)/python -m pytest -q -p no:cacheprovider tests/mpi tests/cases/test_templates.py tests/cases/test_tutorial.py
# Suites of tests/mpi that hold whatever PETSc's scalars are.
COMPLEX_TEST := $(COMPLEX)/bin/python -m pytest -q -p no:cacheprovider tests/complex tests/mpi/test_gcrodr.py tests/mpi/test_coarse_space.py \
  tests/mpi/test_background.py tests/mpi/test_errors.py tests/mpi/test_inputs.py tests/mpi/test_support_table.py

.PHONY: help demo lint docs notebooks release inference test faults test-complex clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   comparison of initial guesses on 6 unseen cavity flows, 2 ranks (runs/demo/)"
	@echo "make lint   ruff and mypy"
	@echo "make docs   a site of the pages and docstrings, build/site/index.html"
	@echo "make notebooks  the tutorial as notebooks, build/notebooks/"
	@echo "make release  sdist and wheel in dist/ and the conda recipe, checked"
	@echo "make inference  Bayesian inference of a flow by tinyDA, a client of lrsa-coupled serve (runs/inference/)"
	@echo "make test   unit and case tests, then the MPI tests on 2 and 3 ranks"
	@echo "make faults  faults injected into every verb: errors on one rank and more, a table of each (an hour)"
	@echo "make test-complex  tests with complex PETSc in an environment of its own, .venv-complex, on 1 and 2 ranks"
	@echo "make clean  remove runs/, caches and build products (keeps the environments)"

demo: $(STAMP)
	$(MPIEXEC) -n 2 $(BIN)/lrsa-coupled bench cavity --samples 6 --json runs/demo/rows.jsonl --html runs/demo/page.html --pictures runs/demo

# mypy and mkdocs see the tree as it is installed.
define INSTALLED_TREE
rm -rf build/typed && mkdir -p build/typed/lrsa_coupled
ln -s $(CURDIR)/lrsa_coupled/* $(CURDIR)/solvers $(CURDIR)/cases build/typed/lrsa_coupled/
endef

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(INSTALLED_TREE)
	cd build/typed && $(CURDIR)/$(BIN)/python -m mypy --config-file ../../pyproject.toml --cache-dir ../mypy

# A link that leads nowhere is an error.
docs: $(VENV)/docs
	$(INSTALLED_TREE)
	rm -rf build/docs build/site && mkdir -p build/docs
	$(BIN)/python -m mkdocs build --strict --config-file .ci/mkdocs.yml
	@echo "build/site/index.html"

KERNEL := {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
notebooks: $(VENV)/notebooks
	rm -rf build/notebooks && mkdir -p build/notebooks && cp cases/tutorial/*.py build/notebooks/
	$(BIN)/python -m jupytext --quiet --to notebook --update-metadata '$(KERNEL)' build/notebooks/*.py
	rm build/notebooks/*.py && ls build/notebooks

$(VENV)/docs $(VENV)/notebooks $(VENV)/release: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[$(notdir $@)]"
	@touch $@

RECIPE := from pathlib import Path; from rattler_build import Stage0Recipe as Recipe; \
  print("recipe:", *Recipe.from_yaml(Path(".ci/conda/recipe.yaml").read_text()).render())
release: $(VENV)/release
	rm -rf dist
	$(BIN)/python -c '$(RECIPE)'
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*

# The surrogate is fitted to the solves of an estimate. tinyDA needs numpy below 2, ray, and an older matplotlib, so an environment of its own.
SERVED := cavity --quantity kinetic_energy dissipation flow_rate force_x force_y
SERVER := runs/inference/server.txt
inference: $(STAMP) $(INFERENCE)/installed
	$(BIN)/lrsa-coupled estimate $(SERVED) --method mc --error 3e-3 --pilot 100 --out runs/inference
	rm -f $(SERVER); $(BIN)/lrsa-coupled serve $(SERVED) --model cases/cavity --fit runs/inference --port 0 > $(SERVER) & server=$$!; \
	  trap "kill $$server" EXIT INT TERM; until grep -qs "^http" $(SERVER) || ! kill -0 $$server; do sleep 0.2; done; \
	  $(INFERENCE)/bin/python cases/scripts/inference.py "$$(sed -n 's/^\(http[^ ]*\):.*/\1/p' $(SERVER))"

$(INFERENCE)/installed:
	test -x $(INFERENCE)/bin/python || "$(PYTHON)" -m venv $(INFERENCE)
	$(INFERENCE)/bin/python -m pip install --quiet "tinyda==0.9.21" "matplotlib<3.10" ray umbridge
	@touch $@

test: $(STAMP)
	$(BIN)/python -m pytest -q -n 3 --dist worksteal tests/unit tests/cases
	$(MPIEXEC) -n 2 $(MPITEST)
	$(MPIEXEC) -n 3 $(MPITEST)

# A table of injections takes more minutes than a test may.
faults: $(STAMP)
	$(BIN)/python -m pytest -q -p no:cacheprovider -o faulthandler_timeout=0 tests/faults

test-complex: $(COMPLEX_STAMP)
	$(COMPLEX_TEST)
	$(COMPLEX)/bin/python -m pytest -q -p no:cacheprovider tests/cases/test_every_case.py -k contracts
	$(COMPLEX)/bin/mpiexec -n 2 $(COMPLEX_TEST)

# Its own DOLFINx, PETSc, MPI and numpy come first; torch and all else are those of .venv.
$(COMPLEX_STAMP): $(STAMP)
	test -x $(COMPLEX)/bin/python || $(BIN)/python -m venv $(COMPLEX)
	$(COMPLEX)/bin/python -m pip install --quiet "$$($(BIN)/python -c "import tomllib; print(tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['complex'][0])")"
	$(COMPLEX)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -c "import sysconfig; print(f'import site; site.addsitedir({sysconfig.get_path(\"purelib\")!r})')" \
	  > $$($(COMPLEX)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/zz_shared.pth
	@touch $@

$(STAMP): pyproject.toml
	@"$(or $(PYTHON),python3)" -c "import sys; sys.exit(sys.version_info < (3, 12))" || \
	  { echo "lrsa-coupled needs Python 3.12 or newer with its venv module; name one with 'make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)'"; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[fem,dev]"
	@touch $@

clean:
	rm -rf runs build dist *.egg-info .pytest_cache .ruff_cache
	find lrsa_coupled solvers cases tests -name __pycache__ -prune -exec rm -rf {} +
