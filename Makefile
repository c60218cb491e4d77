# Two words for a newcomer: `make demo` and `make test`. Everything stays inside this folder, but for
# the models, which live in the cache that SPARSEC_MODELS names.

PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
STAMP = $(VENV)/.installed
CSRC = $(wildcard backends/cpu/csrc/*)

.PHONY: demo test test-slow models lint bench clean install

install: $(STAMP)

# The CPU build of torch is asked for by its exact version; the extra itself says >=2.11.
$(STAMP): pyproject.toml setup.py $(CSRC)
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet torch==2.13.0
	$(PY) -m pip install --quiet --editable ".[torch,cuda,dev]"
	@touch $@

demo: install
	$(PY) -m examples.zoo fetch minilm
	$(PY) -m examples.zoo build minilm
	$(PY) -m examples.demo

# A file's tests share what they compile, so a file stays with one worker; tests/conftest.py orders the files.
# The long suite times things and runs alone.
test: install
	$(PY) -m pytest -q -n auto --dist loadfile --no-loadscope-reorder

test-slow: install models
	$(PY) -m pytest -q -m slow

models: install
	$(PY) -m examples.zoo fetch
	$(PY) -m examples.zoo build

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: install
	$(PY) -m benchmarks.cpu

clean:
	rm -rf $(VENV) build dist demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find backends -name '*.so' -delete
