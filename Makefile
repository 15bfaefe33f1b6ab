# The project's commands. Each prepares the machine first (scripts/bootstrap.sh) and can be run again and again.
SHELL := /bin/bash
BIN := .venv/bin
CODE := services sandbox tests
# Tests with real processes and real time: a machine that stands still for half a second fails one of some 700. It is
# tried once more, three per call at most, and each first failure is printed in full; plain pytest repeats nothing.
REAL := $(BIN)/pytest --reruns 1 --max-suite-reruns 3 --rerun-show-tracebacks

.PHONY: setup demo test check proto proto-check bench bench-bfd lock fmt images reference

setup: ## Debian packages and the pinned Python environment
	@scripts/bootstrap.sh

demo: setup ## the specification's first example, with real packets through real OVN
	@$(BIN)/veg-sandbox demo

check: setup ## the fast loop: format, lint, types, import rules, contracts, unit tests
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(MAKE) --no-print-directory proto-check
	@$(BIN)/python scripts/reference.py --check
	@$(BIN)/python scripts/image_locks.py --check
	@$(BIN)/pytest -q -n 2 tests/unit $$([ -z "$$(scripts/helm.sh)" ] || echo tests/chart)

test: check ## every test: unit, functional (real ovsdb, real namespaces), topology (the sandbox), kube (a real control plane)
	@$(REAL) tests/functional tests/topology
	@programs=$$(scripts/kube.sh) && { [ -z "$$programs" ] || $(REAL) tests/chart tests/kube; }

bench: setup ## figures of docs/benchmarks.md, measured here
	@$(BIN)/python -m tests.bench

bench-bfd: setup ## veg-bfd beside FRR's bfdd, about 40 min; ARGS=--quick: a few minutes
	@scripts/frr.sh >/dev/null
	@$(BIN)/python -m tests.bench.bfd $(ARGS)

proto: setup ## regenerate protos/gen
	@scripts/proto.sh generate

proto-check: setup
	@scripts/proto.sh check

fmt: setup
	@$(BIN)/ruff format $(CODE)
	@$(BIN)/ruff check --fix --quiet $(CODE) || true

lock: setup ## resolve pyproject.toml into requirements/*.lock
	@scripts/lock.sh
	@scripts/bootstrap.sh
	@$(BIN)/python scripts/image_locks.py

images: setup ## OCI archives of the services' images in dist/images, without a registry; ARGS=api: only that one
	@scripts/images.sh $(ARGS)

reference: setup ## regenerate docs/reference
	@$(BIN)/python scripts/reference.py
