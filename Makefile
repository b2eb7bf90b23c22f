# The vocabulary: demo, test, check, bench, quality, fuzz, chaos, reliability, tflite-runtime-test, clean. Each sets up .venv by itself when it is missing.
SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
TFLITE_VENV := .venv-tflite-runtime
# The newest Python from 3.11 on that is here; say `make PYTHON=python3.12 test` for another.
PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3,$(shell $(p) -c 'import sys, venv, ensurepip; print("$(p)" if sys.version_info >= (3, 11) else "")' 2>/dev/null)))

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench quality fuzz chaos reliability tflite-runtime-test clean

help:
	@echo "make demo    machines, gateways and a sink: a model that floods, a better one from summaries, canary, all; before and after (under 4 minutes)"
	@echo "make test    the tests (those that need mosquitto or a browser are skipped, saying so, where it is missing)"
	@echo "make check   formatting, lint, types, import rules"
	@echo "make bench   benchmarks, each against a floor in the same run; JSON under benchmarks/results/, the gist in the README"
	@echo "make quality how well faults are found on recorded data, beside a random score and a clock; JSON under benchmarks/results/ (under an hour)"
	@echo "make fuzz    10 million random and mutated bytes through the decoders of the serial protocol, in Python and in C"
	@echo "make chaos   the gateway between real brokers, killed, frozen, cut off and out of disk at random moments; nothing may be lost"
	@echo "make reliability   what of that is in the README, measured again"
	@echo "make tflite-runtime-test   the inference, golden-vector and daemon tests on tflite-runtime with numpy 1"

demo: $(VENV)/.installed
	@$(PY) -m examples.demo

# Most tests wait for brokers, processes and clocks, so that one more at a time than there are cores is the quickest.
TEST_JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); [ $$n -gt 7 ] && n=7; echo $$((n + 1)))
test: $(VENV)/.installed
	$(PY) -m pytest -q -n $(TEST_JOBS) --dist worksteal

check: $(VENV)/.installed
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.installed
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: $(VENV)/.installed
	@$(PY) -m benchmarks.run

quality: $(VENV)/.installed
	@$(PY) -m benchmarks.quality

fuzz: $(VENV)/.installed
	@$(PY) -m tests.firmware_bridge.fuzz --bytes 10000000

chaos: $(VENV)/.installed
	@$(PY) -m tests.edge_node.chaos --seconds 180

reliability: $(VENV)/.installed
	@$(PY) -m benchmarks.run chaos failover swaps nonsense

# tflite-runtime has wheels for CPython up to 3.11 only and needs numpy 1.
tflite-runtime-test: $(TFLITE_VENV)/.installed
	$(TFLITE_VENV)/bin/python -m pytest -q -m tflite_runtime -n $(TEST_JOBS) --dist worksteal

$(VENV)/.installed: pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then echo "Linewatch needs Python 3.11 or newer with venv and pip (Debian: apt-get install python3-venv)"; exit 1; fi
	@echo "setting up $(VENV) with $(PYTHON) (once; takes a minute or two)"
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@# A metric of the quality benchmark, alone: what else it asks for (torch, numpy 1) is for its models.
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt TSB-AD
	@touch $@

$(TFLITE_VENV)/.installed: pyproject.toml constraints-tflite-runtime.txt
	@if ! command -v python3.11 >/dev/null; then echo "this needs python3.11: tflite-runtime has no wheels for newer Pythons"; exit 1; fi
	python3.11 -m venv $(TFLITE_VENV)
	$(TFLITE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-tflite-runtime.txt -e '.[tflite-runtime]' pytest pytest-timeout pytest-xdist hypothesis psutil
	@touch $@

clean:
	rm -rf $(VENV) .venv-tflite-runtime build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
