# Every target makes its own environment under .venv; PYTHON names the interpreter it starts from.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PROOFS := $(wildcard tests/test_ptx*.py tests/test_gpu*.py)  # what `make proof` runs
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help arena test proof proof-all gpu coverage mutate fuzz lint bench-check bench history compare report docs \
        browser peers golden check clean

help:
	@echo "make arena   compare all variants on real text: time, memory, agreement with the specification; then"
	@echo "             in whole encoders, beside the Long Range Arena's tables (LRA=--full: all of its tasks)"
	@echo "make test    the test suite, then the part of it that also runs without compilation"
	@echo "make proof   CUDA kernels in an interpreter of their PTX, every access checked; needs no GPU"
	@echo "make proof-all   the same in more types and sizes, and each form of each kernel compiled for every architecture"
	@echo "make gpu     on a machine with a GPU: conformance, races, leaks and speed, into one report; installs nothing"
	@echo "make coverage   lines and branches of the specification that no test reaches"
	@echo "make mutate  PAPER=reformer: small changes of that file of xfref that no test notices"
	@echo "make fuzz    SECONDS=600 READER=png: broken files for the readers of the Long Range Arena, default all"
	@echo "make lint    ruff"
	@echo "make check   lint, asv check, docs, browser, proof and test: what CI runs"
	@echo "make bench   airspeed velocity on this commit (QUICK=1: every name once, nothing kept)"
	@echo "make history N=3 MACHINE=reference: the same on the newest commits of main without results"
	@echo "make compare BASE=main HEAD=HEAD: which variants are slower in HEAD, measured in turns, twice"
	@echo "make report  asv's web report, readable without a network, on this machine (SERVE=0: only built)"
	@echo "make browser the report and the book in a headless Chromium (PICTURES=folder: and pictures of its pages)"
	@echo "make peers   exact attention and every variant beside torch, its packages, ONNX Runtime and OpenVINO"
	@echo "make docs    the book, in docs/build/html; every block of code on its pages is run"
	@echo "make clean   remove .venv and the book"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "xfaccel needs Python 3.11 or later; name one with PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "$(PYTHON) lacks venv; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

# one stamp per extra: its packages are there and younger than pyproject.toml
$(VENV)/.with-%: pyproject.toml | $(VENV)/bin/python
	@echo "Installing xfaccel[$*] into $(VENV)"
	@$(RUN) -m pip install --quiet --editable '.[$*]'
	@touch $@

arena: $(VENV)/.with-arena
	$(RUN) -m xfaccel arena $(ARENA)
	$(RUN) -m xfaccel lra $(LRA)

test: $(VENV)/.with-test
	NUMBA_DISABLE_JIT=1 $(RUN) -m pytest -q -n auto --dist worksteal -m unjitted --ignore tests/browser
	$(RUN) -m pytest -q tests/test_kernels.py  # runs two processes at a time by itself
	$(RUN) -m pytest -q -n auto --dist worksteal --ignore tests/test_kernels.py --ignore tests/browser \
	  $(PROOFS:%=--ignore %)

# with -rs it says what it had to skip, and why
proof: $(VENV)/.with-proof
	$(RUN) -m pytest -q -rs -n auto --dist worksteal $(PROOFS)

proof-all: export XFACCEL_PROOF := all
proof-all: proof

# with the Python that is there, which brings CuPy: on a machine with a GPU often nothing can be installed
gpu:
	@$(PYTHON) asv_benchmarks/gpu.py $(GPU)

# the specification alone: a test that runs on both packages runs on xfref
coverage: $(VENV)/.with-test
	$(RUN) -m coverage run --branch --source=xfref --data-file=$(VENV)/coverage -m pytest -q -p no:cacheprovider \
	  -k 'not xfaccel' tests/laws tests/lra tests/test_laws.py tests/test_golden.py tests/test_bad_input.py \
	  tests/test_rules.py tests/test_half.py
	$(RUN) -m coverage report --data-file=$(VENV)/coverage --show-missing --skip-covered --fail-under=100

fuzz: $(VENV)/.with-test
	@$(RUN) tests/fuzz.py $(or $(SECONDS),600) $(READER)

mutate: $(VENV)/.with-test
	@$(RUN) tests/mutate.py $(PAPER)

lint: $(VENV)/.with-test
	$(RUN) -m ruff check .

bench-check: $(VENV)/.with-bench
	cd asv_benchmarks && ../$(RUN) -m asv check --python=same

# every name once at its smallest size; the ratios, which take longest, are left out
QUICKLY := --quick --python=same --bench '(time_\w+|_memory)\(.*, 1024\)|_error\(|import xf'
bench: $(VENV)/.with-bench
	cd asv_benchmarks && ../$(RUN) -m asv machine --yes >/dev/null \
	  && ../$(RUN) -m asv run --show-stderr $(if $(QUICK),$(QUICKLY),'HEAD^!')

history: $(VENV)/.with-bench
	@$(RUN) asv_benchmarks/history.py --number $(or $(N),1) $(if $(MACHINE),--machine $(MACHINE))

compare: $(VENV)/.with-bench
	@$(RUN) asv_benchmarks/two_commits.py $(or $(BASE),main) $(or $(HEAD),HEAD)

report: $(VENV)/.with-bench
	@$(RUN) asv_benchmarks/report.py $(if $(filter 0,$(SERVE)),--build)

browser: $(VENV)/.with-browser docs
	$(RUN) -m pytest -q -rs tests/browser $(if $(PICTURES),--pictures $(PICTURES))

peers: $(VENV)/.with-peers
	$(RUN) asv_benchmarks/peers.py $(PEERS)

# anew each time: pages show what the code gives, which Sphinx cannot see change
docs: $(VENV)/.with-docs
	$(RUN) -m sphinx -W -E -q -j auto -b html docs docs/build/html
	@echo "docs/build/html/index.html"

check: lint bench-check browser proof test

clean:
	rm -rf $(VENV) docs/build
