# Everything here needs git, make and Python 3.11 or newer, and nothing else: no service, no Docker, no environment.
#
#   make demo           two stories, killed in the middle, before and after (on RQ: make demo ARGS="--engine rq")
#   make unit           the tests that need no server, on SQLite: a first look, and what to run after each change
#   make test           all tests; servers that run here are used, the others are started from wheels
#   make oldest         the bindings' tests on the oldest versions that are supported (tests/oldest.txt), on Python 3.11,
#                       in an environment of its own; OLDEST names others, such as OLDEST=tests/crash
#   make check          what CI checks besides the tests: lint, types, imports, docs
#   make unchanged      compares, byte for byte, what reaches broker and result backend without the plugin and with it,
#                       where nothing is marked (ARGS="--broker redis --kind published/delay" for a part)
#   make crash-matrix   Celery's whole crash matrix (needs Redis and PostgreSQL, brought along by the wheels);
#                       RQ's with ARGS='--engine rq'
#   make explore        5,000 random schedules of the real runtime on SQLite, and a tenth of that on PostgreSQL and on MariaDB
#                       where they run; ARGS="--schedules N --seed S --dialect D --trace", and a seed replays a schedule
#   make soak           2,000 sagas on Celery and 500 on RQ while workers are killed, the broker is flushed, connections are cut
#                       and answers lost, in up to 30 minutes; ARGS="--sagas N --engine celery|rq|both --seed S"
#   make bench          the benchmarks
#
# Variables: PYTHON (which interpreter makes the environment), ARGS (handed to pytest, the matrix, the benchmarks, the demo),
# WORKERS (test processes, default 3: they wait more than they work).

# The first interpreter that is new enough. 3.11 and 3.12 come first: for them there is a wheel with a Redis server.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
WORKERS ?= 3
VENV := .venv
VENV_OLDEST := .venv-oldest
# What `make unit` runs, as far as it needs no server.
UNIT ?= tests/unit tests/calls tests/inline tests/testing tests/runtime/test_adding_a_kind.py --ignore tests/testing/test_plugin.py
# What `make oldest` runs: RQ's binding, and of Celery's and the journal's what reaches deepest, the latter on SQLite.
OLDEST ?= tests/rq tests/journal $(addprefix tests/celery/test_,chains.py functions.py lone_tasks.py retrying.py rollback.py \
	starting.py) -k "not postgresql and not mariadb and not mysql"
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help demo unit test oldest check lint format types imports docs crash-matrix explore soak bench clean

help:
	@sed -n 's/^#   //p' Makefile

# Stamps: an environment is made again only when pyproject.toml changes. The package is installed in editable form, so a
# change of the sources needs no new installation.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer, with its venv module, is needed; name one with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.for-demo: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[demo]'
	@touch $@

$(VENV)/.for-development: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[all,dev]'
	@touch $@ $(VENV)/.for-demo

demo: $(VENV)/.for-demo
	@$(BIN)/durable-adapter demo $(ARGS)

unit: $(VENV)/.for-development
	@DURABLE_TEST_NO_SERVERS=1 $(BIN)/python -m pytest -q -n $(WORKERS) $(UNIT) $(ARGS)

test: $(VENV)/.for-development
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

# Neither has wheels for a newer Python: psycopg 3.1.4, SQLAlchemy 2.0.0.
$(VENV_OLDEST)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "make oldest needs Python 3.11, for which" \
		"the oldest versions have wheels; name one with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV_OLDEST)

$(VENV_OLDEST)/.for-tests: pyproject.toml tests/oldest.txt | $(VENV_OLDEST)/bin/python
	$(VENV_OLDEST)/bin/python -m pip --disable-pip-version-check --quiet install --constraint tests/oldest.txt \
		--editable '.[all,test]'
	@touch $@

oldest: $(VENV_OLDEST)/.for-tests
	$(VENV_OLDEST)/bin/python -m pytest -n $(WORKERS) $(OLDEST) $(ARGS)

check: lint types imports docs

lint: $(VENV)/.for-development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.for-development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.for-development
	$(BIN)/mypy

imports: $(VENV)/.for-development
	$(BIN)/lint-imports

docs: $(VENV)/.for-development
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

crash-matrix: $(VENV)/.for-development
	$(BIN)/python -m tests.crash.matrix $(ARGS)

explore: $(VENV)/.for-development
	$(BIN)/python -m tests.explorer $(ARGS)

soak: $(VENV)/.for-development
	$(BIN)/python -m tests.soak $(ARGS)

unchanged: $(VENV)/.for-development
	$(BIN)/python -m tests.unchanged $(ARGS)

bench: $(VENV)/.for-development
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) $(VENV_OLDEST) .venv-dbos build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
