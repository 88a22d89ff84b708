# nestscope: `make demo` shows it, `make test` checks it.
PYTHON ?= python3
BIN := .venv/bin
export PYTHON

.PHONY: all setup system test-system demo check test nightly mutants docs bench clean

all: setup

# The checkout's own environment. The links under .venv/typing give the type
# checker the package names that the map in pyproject.toml defines.
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	mkdir -p .venv/typing/nestscope
	for part in decoders sim plugin nestscope/__init__.py nestscope/py.typed; do \
	    ln -sfn ../../../$$part .venv/typing/nestscope/$$(basename $$part); done
	touch $@

setup: .venv/ready

system:
	@scripts/system-packages

test-system:
	@scripts/system-packages tests

demo: system setup
	$(BIN)/nestscope lab fetch
	$(BIN)/nestscope diff

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=.venv/typing $(BIN)/mypy -p nestscope

test: test-system setup check
	$(BIN)/nestscope lab fetch --all
	$(BIN)/pytest -m "not nightly"

nightly: system setup
	$(BIN)/nestscope lab fetch --all
	$(BIN)/pytest -m nightly

# The model's tests against each of its mutants; a quarter of an hour on 2 cores.
mutants: setup
	$(BIN)/python -m tests.mutants --report docs/mutants.md

docs: setup
	$(BIN)/sphinx-build -W -b html docs docs/_build/html

bench: system setup
	$(BIN)/nestscope lab fetch
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
