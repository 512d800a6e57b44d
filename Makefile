# Every target works on a fresh machine with Python 3.11 or newer; `make run` and `make test` are all that a newcomer needs.
PYTHON ?= python3
PORT ?= 8080
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
LOCKED := $(VENV)/.locked
TEST_LOCKED := $(VENV)/.locked-test
STAMP := $(VENV)/.installed
SOURCES := pyproject.toml hatch_build.py README.md $(shell find mainstay -name '*.py')
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: run test install editable lint bench docs lock clean

run: $(STAMP)
	@$(BIN)/mainstay demo --port $(PORT)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(LOCKED): $(BIN)/python requirements.lock
	$(PIP) install --quiet -r requirements.lock
	@touch $@

$(TEST_LOCKED): $(LOCKED) requirements-test.lock
	$(PIP) install --quiet -r requirements-test.lock
	@touch $@

# The hot path is compiled (hatch_build.py), which takes most of a minute; without a C compiler it is interpreted.
$(STAMP): $(LOCKED) $(SOURCES)
	@echo "installing Mainstay into $(VENV), compiling its hot path"
	$(PIP) install --quiet --no-deps --force-reinstall .
	@touch $@

install: $(STAMP)

# For work on the source: what is run is the source itself, interpreted.
editable: $(TEST_LOCKED)
	$(PIP) install --quiet --no-deps -e .

test: $(TEST_LOCKED) $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(TESTS)

lint: $(TEST_LOCKED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(TEST_LOCKED) $(STAMP)
	$(BIN)/python -m bench

docs: $(STAMP)
	$(BIN)/python scripts/reference.py

lock: $(BIN)/python
	$(BIN)/python scripts/lock.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
