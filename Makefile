# make demo   train, evaluate and export a nano model on built-in data (set-up included)
# make test   lint and run every test (set-up included); fast tests on a second Python where there is one
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
# Large pages for the allocator (of glibc alone): with small ones a CPU spends a fifth of the training on page faults.
MALLOC := GLIBC_TUNABLES=glibc.malloc.hugetlb=1
F2JAX := $(MALLOC) $(BIN)/f2jax

.PHONY: demo test lint second-python bench clean

$(VENV)/.ready-%: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -e .[$*]
	touch $@

demo: $(VENV)/.ready-eval
	$(F2JAX) train --config configs/nano.py:stage=1 --workdir $(DEMO)/stage1
	$(F2JAX) train --config configs/nano.py:stage=2 --workdir $(DEMO)/stage2 --config.init_from=$(DEMO)/stage1
	$(F2JAX) evaluate --model $(DEMO)/stage2 --output $(DEMO)/results
	$(F2JAX) export --model $(DEMO)/stage2 --output $(DEMO)/release

lint: $(VENV)/.ready-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

test: lint
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest
	$(MAKE) second-python

# The fast tests again on another Python, with the newest jax that it can have.
second-python:
	@sh tests/second_python.sh $(PYTHON)

clean:
	rm -rf $(VENV) .venv-* $(DEMO) build *.egg-info
