# Every target works on a fresh machine with Python 3.11 or newer; `make run` and `make test` are all that a newcomer needs.
PYTHON ?= python3
PORT ?= 8080
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-test

.PHONY: run test lint bench docs lock clean

run: $(STAMP)
	@$(BIN)/mainstay demo --port $(PORT)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(STAMP): $(BIN)/python pyproject.toml requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(TEST_STAMP): $(STAMP) requirements-test.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.lock
	@touch $@

test: $(TEST_STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(TESTS)

lint: $(TEST_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(TEST_STAMP)
	$(BIN)/python -m bench

docs: $(STAMP)
	$(BIN)/python scripts/reference.py

lock: $(BIN)/python
	$(BIN)/python scripts/lock.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
