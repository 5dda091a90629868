# `make setup test` is what CI does; `make bench` measures this machine.

BIN := .venv/bin
RESULTS ?= benchmarks/results
OLDEST_TRITON := 3.4.0
LM_EVAL := 0.4.13
PROCESSES ?= 2

.PHONY: help setup check format test test-triton test-lm-eval test-exhaustive test-arm test-gpu bench table constraints clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | expand -t 14

setup: .venv/ready ## a virtual environment with the pinned versions

.venv/ready: constraints.txt pyproject.toml
	python3 -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

check: setup ## lint, formatting, types, container files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/hadolint containers/Dockerfile.*

format: setup ## rewrite what the linter and the formatter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

test: setup ## every test that this machine can run
	$(BIN)/pytest -n $(PROCESSES) --dist worksteal --durations=30

test-triton: setup ## kernels compile for NVIDIA GPUs with the oldest Triton of pyproject.toml (for AMD's it lacks a linker)
	test -d .venv/triton-$(OLDEST_TRITON) || $(BIN)/pip install --quiet --no-deps \
		--target .venv/triton-$(OLDEST_TRITON) triton==$(OLDEST_TRITON)
	PYTHONPATH=.venv/triton-$(OLDEST_TRITON) $(BIN)/pytest tests/kernels/triton/test_compile.py -k cuda

test-lm-eval: setup ## lm_eval against the server gives the decoder's log-likelihoods; in an environment of its own, which takes a minute
	test -x .venv/lm-eval/bin/lm_eval || { python3 -m venv .venv/lm-eval && \
		.venv/lm-eval/bin/pip install --quiet "lm-eval[api]==$(LM_EVAL)"; }
	$(BIN)/pytest tests/server/test_lm_eval.py

test-exhaustive: setup ## tests that take many minutes: fuzz of the loaders, Ctrl-C at hundreds of moments
	$(BIN)/pytest -m exhaustive

test-gpu: setup ## the suite, compute-sanitizer and the benchmarks on a machine with a GPU
	PYTHON=$(CURDIR)/$(BIN)/python tools/test_gpu.sh

test-arm: ## the Numba suite on an emulated ARM CPU (needs root, debootstrap, qemu-user-static)
	tools/test_arm.sh

bench: setup ## every benchmark on this CPU, into benchmarks/results/
	$(BIN)/python benchmarks/run_all.py --results $(RESULTS)

table: setup ## the README's table of figures from the newest results
	$(BIN)/python benchmarks/readme_table.py --results $(RESULTS)

constraints: ## renew constraints.txt from a fresh environment
	tools/pin_versions.sh

clean: ## caches and builds
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
