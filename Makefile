# The two commands a new user needs: `make demo` and `make test`. Both set up .venv from the lock by themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DEMO   ?= demo
TESTS  ?=

.PHONY: setup demo test lint bench docs lock clean
setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "speaq needs python >= 3.11: make PYTHON=python3.11 setup")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "uv==0.13.9"
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

demo: $(READY)
	$(BIN)/speaq demo --output $(DEMO)

test: lint
	$(BIN)/python -m compileall -q speaq launch tests # else each of a thousand processes compiles them
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 3 --durations 60 --durations-min 8 $(TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m tests.bench

docs: $(READY)
	$(BIN)/mkdocs build --strict

# Only for maintainers: writes new pins. No index host is written into the lock.
lock: $(READY)
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
	  --generate-hashes --no-header --upgrade -o requirements.lock

clean:
	rm -rf $(VENV)
