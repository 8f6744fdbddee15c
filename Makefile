# Everything a person does with this project from a clone. `make` alone says what there is.
SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON_ENV := .venv/bin/python
NAME ?= dev
UV := 0.13.9
export PYTHONPATH := operator:.

.PHONY: help venv setup lock images cluster cluster-down generate check unit model test test-long test-faults fuzz kills demo failover creation clean

help: ## show this
	@echo "make TARGET"
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  \1|\2/' | \
		awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'
	@echo
	@echo "NAME=dev names the cluster. CLUSTER=existing uses the one of KUBECONFIG, CLUSTER=kind or CLUSTER=kubebox"
	@echo "chooses; without it: kind where an engine and kind are, otherwise kubebox (Linux, root). See dev/README.md."

venv:
	@dev/setup.sh venv

setup: ## install all that is needed: packages (Debian, root), Python's into .venv, programs from Go modules
	@dev/setup.sh packages venv programs

lock: ## resolve the dependencies of pyproject.toml into requirements/*.txt again
	@python3 -m venv build/lock && build/lock/bin/pip install --quiet uv==$(UV)
	@for name in operator postgres cli dev; do \
		build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
			--no-header --extra $$name --output-file requirements/$$name.txt pyproject.toml || exit 1; done

images: setup ## build the images postgres and operator
	@$(PYTHON_ENV) -m dev.images build

cluster: setup ## a local Kubernetes of three nodes (or the one that is up)
	@path=$$($(PYTHON_ENV) -m dev.cluster up --name $(NAME)) && echo "export KUBECONFIG=$$path"

cluster-down: venv ## take it away with all that belongs to it
	@$(PYTHON_ENV) -m dev.cluster down --name $(NAME)

generate: venv ## write what is generated: CRDs, references
	@$(PYTHON_ENV) -m matriarch.api.generate

check: venv ## linters, types, import rules, generated files, unit tests, chart; no cluster, no root
	@$(PYTHON_ENV) -m dev.stages check

unit: venv ## unit tests alone
	@$(PYTHON_ENV) -m pytest -q tests/unit

model: ## check the protocol's formal model and its mutants (Spin): ARGS="--quick", ARGS="--trail NAME"
	@dev/setup.sh packages venv
	@$(PYTHON_ENV) -m model.check $(ARGS)

test: ## everything from nothing, then every test; uses a cluster of its own named `test`
	@dev/setup.sh packages venv
	@$(PYTHON_ENV) -m dev.stages test

test-long: ## test, then the long fault runs
	@dev/setup.sh packages venv
	@$(PYTHON_ENV) -m dev.stages long

demo: setup ## the whole product in one run: install, load, failover, backup, restore
	@$(PYTHON_ENV) -m dev.demo

failover: ## how long writes stop, and whether one is lost: ARGS="--fault pid1-kill --runs 10", ARGS=--help
	@python3 bench/failover.py $(ARGS)

test-faults: setup ## histories under faults: ARGS="--seed 7 --hours 4", ARGS="--mutant no-cut", ARGS=--help
	@$(PYTHON_ENV) -m bench.history $(ARGS)

fuzz: venv ## fuzz everything that reads a store, by coverage: ARGS="--minutes 60", ARGS=--report, ARGS=--help
	@$(PYTHON_ENV) -m tests.fuzz.run $(ARGS)

kills: setup ## SIGKILL backups and the archiver at random moments: ARGS="--kills 200 --folder DIR" goes on where it was
	@$(PYTHON_ENV) -m tests.postgres.backup.killing $(ARGS)

creation: venv ## how long a new cluster takes, on the demo's Kubernetes: ARGS="--runs 5"
	@$(PYTHON_ENV) -m bench.creation $(ARGS)

clean: ## remove what was built in this folder; clusters and the cache stay
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find operator dev tests bench model -name __pycache__ -type d -prune -exec rm -r {} +
