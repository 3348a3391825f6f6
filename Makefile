# Needs Python 3.11 or newer and make; everything else is set up here.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test quick pure lint bench clean

demo: .venv/ready  ## set up, run the embedded study, print its front
	@$(BIN)/rcopt run studies/digits.toml
	@echo
	@echo "Where to look next:"
	@echo "  $(BIN)/rcopt status digits        what was trained, and how close the search came"
	@echo "  $(BIN)/rcopt ui digits            every run in the MLflow UI"
	@echo "  $(BIN)/rcopt report digits        the figures, as one page"
	@echo "  $(BIN)/rcopt select digits --max-drop 0.01    one configuration"

test: lint  ## set up, lint, check types, run every test
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

quick: .venv/ready  ## lint, types and the tests of the pure core, in under half a minute
	@$(MAKE) --no-print-directory -j2 lint pure

pure: .venv/ready
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" tests/core tests/report/analysis rcopt/core

lint: .venv/ready
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: .venv/ready  ## the measurements of benchmarks/README.md
	@$(BIN)/python -m benchmarks

clean:
	rm -rf .venv

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("rcopt needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	@echo "Setting up .venv (a few minutes the first time) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,dashboard,bench]'
	@touch $@
