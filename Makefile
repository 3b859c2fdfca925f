# The two commands a user needs: `make demo` and `make test`. The rest is for those who work on the code.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo guard-demo test test-slow lint format types docs bench chaos fuzz guard-chaos guard-fuzz cluster-test guarantee lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# Pinned and hashed; `--no-deps` because the lock names everything, `--no-build-isolation` because it also
# names the build back-end. pip compiles the 19,000 files on one CPU, compileall on all; some are templates that are
# not valid Python, which it skips.
$(STAMP): requirements/lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"mifsim needs Python 3.11 to 3.13, {sys.executable} is {v[0]}.{v[1]}: run make with PYTHON=python3.11 or the like")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --no-compile -r requirements/lock.txt
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(STAMP)  ## create .venv with the pinned dependencies

demo: setup  ## run the main job on real MNIST digits and say where the results are
	$(BIN)/mifsim tune calibrate-digits

guard-demo: setup  ## after `make demo`: its filter before a model server, attacked over HTTP, and calibrated from its log
	$(BIN)/python examples/guard_demo.py

test: setup  ## run the tests in parallel
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: setup  ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: setup  ## check style and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: setup  ## put the code into the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup  ## check types (mypy, strict)
	$(BIN)/mypy

chaos: setup  ## 50 runs, each with a fault at a random moment (ROUNDS, SEED; root for a full disk): the same rows
	$(BIN)/python -m tests.chaos.rounds --rounds $(or $(ROUNDS),50) --seed $(or $(SEED),0)

guard-chaos: setup  ## 1,000 rounds of faults of the guard (ROUNDS, SEED): counts and blocks survive, no honest client is blocked
	$(BIN)/python -m tests.guard.chaos.rounds --rounds $(or $(ROUNDS),1000) --seed $(or $(SEED),0)
	$(BIN)/python -m tests.guard.chaos.processes --rounds 5 --seed $(or $(SEED),0)

fuzz: setup  ## read 1,000,000 damaged log rows and 100,000 damaged images (ROWS, IMAGES): bad ones counted, memory flat
	MIFSIM_FUZZ_ROWS=$(or $(ROWS),1000000) MIFSIM_FUZZED_IMAGES=$(or $(IMAGES),100000) \
		$(BIN)/python -m pytest -s -n0 tests/data/logs/test_fuzz.py tests/data/test_fuzzed_images.py

guard-fuzz: setup  ## 1,000,000 altered requests (BODIES, SEED) for each wire of the guard: each is read or refused
	$(BIN)/python -m tests.guard.fuzz --bodies $(or $(BODIES),1000000) --seed $(or $(SEED),0)
	$(BIN)/python -m tests.guard.fuzz --bodies $$(( $(or $(BODIES),1000000) / 10 )) --seed $(or $(SEED),0) --guard

cluster-test: setup  ## the demo's study on a cluster of network namespaces, a worker killed: the same rows (root, iproute2)
	$(BIN)/python -m tests.cluster.namespaces

guarantee: setup  ## 20 calibrations on one half of MNIST, judged on the other half (DATA=folder of the IDX files; 1 h)
	$(BIN)/python -m tests.guarantee.halves --data $(DATA)

docs: setup  ## build the site, docs/_build/html, with warnings as errors (no network)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --jobs auto docs docs/_build/html
	@echo "the site: docs/_build/html/index.html"

bench: setup  ## measure speed and memory, as ratios against named baselines
	$(BIN)/python -m pytest tests/benchmarks -m '' --override-ini addopts= -q

lock: setup  ## pin and hash all dependencies anew (needs uv)
	uv pip compile pyproject.toml --extra dev --extra docs --extra cluster --extra guard --extra redis --extra serve --extra onnx --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --quiet --output-file requirements/lock.txt

clean:  ## remove the environment and all caches (runs/ stays)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .benchmarks .hypothesis docs/_build docs/documents docs/reference/generated
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
