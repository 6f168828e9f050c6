# Every target sets itself up: a virtual environment in the tree, the package in editable mode.
PYTHON ?= python3
# PYTHON=python3.13 has an environment of its own, .venv-3.13.
VENV ?= .venv$(patsubst python%,-%,$(filter-out python python3,$(notdir $(PYTHON))))
EXTRAS ?= data,dev
BIN := $(VENV)/bin
CACHE := $(CURDIR)/.cache/jax
WORKERS ?= 2

# make test ISA=SSE4_2 (AVX, AVX2, AVX512): what the tests find on a processor of that age.
ifdef ISA
CACHE := $(CACHE)-$(ISA)
export XLA_FLAGS := $(strip $(XLA_FLAGS) --xla_cpu_max_isa=$(ISA))
endif

export JAX_COMPILATION_CACHE_DIR ?= $(CACHE)
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.3
export TF_CPP_MIN_LOG_LEVEL ?= 3
export NO_MKDOCS_2_WARNING ?= 1

.PHONY: demo test test-fast test-slow test-lowest test-no-tensorflow lint format install docs clean help

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

install: $(VENV)/.installed  ## virtual environment in .venv (or VENV), package in editable mode

$(VENV)/.installed: setup.cfg setup.py pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, this is {v.major}.{v.minor}; try make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

demo: $(VENV)/.installed  ## generate videos, pre-train CVRL, probe it: one RESULT line
	$(BIN)/vssl train --config=cvrl:demo

test: lint test-fast  ## lint and the fast tests; make test PYTHON=python3.13 for another Python

test-fast: $(VENV)/.installed
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile

test-slow: $(VENV)/.installed  ## kill and resume, several processes, whole configs, notebooks
	$(BIN)/python -m pytest -m slow -n $(WORKERS) --dist loadfile

test-lowest:  ## the fast tests with the lowest versions that setup.cfg allows, in .venv-lowest
	mkdir -p .cache
	$(PYTHON) .ci/lowest.py > .cache/lowest.txt
	PIP_CONSTRAINT=$(CURDIR)/.cache/lowest.txt $(MAKE) test-fast VENV=.venv-lowest

test-no-tensorflow:  ## the fast tests without the extra data, in .venv-core
	$(MAKE) test-fast VENV=.venv-core EXTRAS=test

lint: $(VENV)/.installed  ## lint alone: style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed  ## rewrite to the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

docs: $(VENV)/.docs  ## the documentation site in build/site, warnings as errors
	$(BIN)/mkdocs build --strict

clean:  ## forget the environment and the caches, keep runs/
	rm -rf .venv .venv-* .cache build/site *.egg-info
