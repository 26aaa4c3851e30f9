# Two commands do all the set-up on a fresh Debian 12 or 13: `make demo` and `make test`.
TEE ?= snp
PYTHON := .venv/bin/python
JOBS ?= $(shell nproc)
RUNS ?= 100000

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench deb verify-pyz vm fuzz clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## .venv/bin/tee-agent and .venv/bin/tas, ready to run
	@sh packaging/setup.sh demo

demo: setup ## the main job from kernel interface to verified signature (TEE=snp or TEE=tdx)
	@$(PYTHON) -m sim.demo --tee $(TEE)

test: ## every test: lint, unit, vectors, integration, packages, and the boots in QEMU (half an hour on two cores)
	@sh packaging/setup.sh test
	@$(PYTHON) -m pytest -q -n $(JOBS) --dist worksteal -m "not vm"
	@sh packaging/deb.sh
	@$(PYTHON) -m pytest -q -n $(JOBS) --dist worksteal -m vm

check: ## linters and unit tests only: seconds
	@sh packaging/setup.sh test
	@$(PYTHON) -m pytest -q tests/test_lint.py tests/unit

bench: ## figures against named peers; writes build/bench.json
	@sh packaging/setup.sh bench
	@$(PYTHON) -m bench

deb: ## Debian packages in build/: tee-agent, tee-agent-initramfs, python3-tee-agent-client
	@sh packaging/setup.sh deb
	@sh packaging/deb.sh

verify-pyz: setup ## build/tee-agent-verify.pyz: the verifier in one file, for relying parties on any system
	@$(PYTHON) packaging/pyz/build.py build/tee-agent-verify.pyz

vm: ## the boots alone: our packages in a Debian 13 image with an encrypted root, in QEMU
	@sh packaging/setup.sh test
	@sh packaging/deb.sh
	@$(PYTHON) -m pytest -q -n $(JOBS) --dist worksteal -m vm

fuzz: ## coverage-guided fuzzing of every parser (RUNS=executions of each)
	@sh packaging/setup.sh fuzz
	@$(PYTHON) -m tests.fuzz --all --runs $(RUNS)

clean: ## remove what make made
	rm -rf build .venv *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
