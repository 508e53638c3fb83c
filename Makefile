# make demo   train, evaluate and export a nano model on built-in data (set-up included)
# make test   lint and all tests but the slow ones (set-up included; 15 minutes on two cores)
# make test-fast   what a change breaks first: no PyTorch, no complete runs, no second process (3 minutes)
# make test-all    what `make test` leaves out: a smoke test on a second Python where there is one, and the slow tests
# make docs   build the site into build/docs; a warning is an error (set-up included)
# make bench  every comparison with peers, into one table (within an hour, and set-up; goes on where it stopped)
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
DEMO ?= demo
WORKERS ?= 2
RUN := .venv/bin
TEST := .venv-test/bin
# Large pages for the allocator (of glibc alone): with small ones a CPU spends a fifth of the training on page faults.
F2JAX := GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(RUN)/f2jax

# Tests of one file stay in one process, because they share what it sets up; files run side by side, the longest first.
PYTEST = JAX_PLATFORMS=cpu $(TEST)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast test-all lint docs bench clean

demo: .venv/.ready
	$(F2JAX) train --config configs/nano.py:stage=1 --workdir $(DEMO)/stage1
	$(F2JAX) train --config configs/nano.py:stage=2 --workdir $(DEMO)/stage2 --config.init_from=$(DEMO)/stage1
	$(F2JAX) evaluate --model $(DEMO)/stage2 --tasks cldr-names cldr-across --output $(DEMO)/results
	$(F2JAX) export --model $(DEMO)/stage2 --output $(DEMO)/release
	$(RUN)/python -c 'from f2jax.data.sources import cldr; print(*sorted(set(cldr.english().values())), sep="\n")' \
		> $(DEMO)/names.txt
	$(F2JAX) search --documents $(DEMO)/names.txt --model $(DEMO)/release --k 3 \
		--query 파키스탄 'Πέσο Μεξικοῦ' 'Yeni ya Japani'
	@echo 'None of the three was seen in training. Now your own words, in any language:'
	@echo '  $(RUN)/f2jax search --documents $(DEMO)/names.txt --model $(DEMO)/release --query "YOUR WORDS"'
	@echo '  $(RUN)/f2jax search --documents $(DEMO)/names.txt --model $(DEMO)/release --serve    # a page to try it'

test: lint
	$(PYTEST) -m "not slow"

test-fast: .venv-test/.ready
	$(PYTEST) -m "not slow and not parity and not unhurried"

test-all: .venv-test/.ready
	sh tests/second_python.sh $(PYTHON)
	$(PYTEST) -m slow

lint: .venv-test/.ready
	$(TEST)/ruff check . && $(TEST)/ruff format --check . && $(TEST)/mypy

docs: .venv-test/.ready
	JAX_PLATFORMS=cpu $(TEST)/python -m sphinx -E -W --keep-going -q docs build/docs
	@echo build/docs/index.html

bench: demo .venv-bench/.ready
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 .venv-bench/bin/python -m benchmarks --model $(DEMO)/release

.venv/.ready: setup.py
	$(PYTHON) -m venv .venv
	$(RUN)/pip install -q --disable-pip-version-check -e .[demo]
	touch $@

# Apart from the demo's: the oracles (PyTorch, transformers) and the TPU compiler, which looks for a TPU at each start.
.venv-test/.ready: setup.py
	$(PYTHON) -m venv .venv-test
	$(TEST)/pip install -q --disable-pip-version-check --no-compile -e .[test]
	touch $@

.venv-bench/.ready: setup.py
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install -q --disable-pip-version-check -e .[bench]
	touch $@

clean:
	rm -rf .venv .venv-* $(DEMO) build *.egg-info
