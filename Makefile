# Everything happens in an environment inside this folder; nothing else is touched.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= auto
CONTRACTS ?= tests/executors/test_*_contract.py
LEAVE_OUT ?=

.PHONY: demo test slow contract live lint docs bench examples clean

demo: $(VENV)/.demo
	$(BIN)/magg demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not live" $(LEAVE_OUT:%=--ignore=%)

# Hundreds of faults and kills at random moments: minutes, for those who change how cells are kept.
slow: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) -m slow

# What the documentation of concurrent.futures promises, asked of executors that call elsewhere.
contract: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) $(CONTRACTS)

# Against NASA's servers, with your own Earthdata login.
live: $(VENV)/.test
	$(BIN)/python -m pytest -m live

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/cfn-lint magg/deploy/template.yaml
	$(BIN)/shellcheck scripts/*.sh

# Into build/site/, with whatever warns being an error; nothing is fetched.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.test
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

# Runs the notebooks and keeps their outputs.
examples: $(VENV)/.test
	MAGG_KEEP_EXAMPLES=1 $(BIN)/python -m pytest -n $(WORKERS) tests/test_examples.py -k top_to_bottom

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml $(VENV)/bin/pip
	$(BIN)/pip install --quiet --editable '.[plot]'
	touch $@

$(VENV)/.test: pyproject.toml $(VENV)/bin/pip
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/.docs: pyproject.toml $(VENV)/bin/pip
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) magg-demo build dist
