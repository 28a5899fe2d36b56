# make demo [ARGS="..."]   set up .venv and run the main job on this machine
# make watch               Prometheus and Alertmanager beside a running demo, alerts as lines
# make kafka [ARGS="..."]  a real Kafka on this machine, until Ctrl-C (needs Java 17 and Maven)
# make test                set up .venv, check, and test everything but what is slow
# make test-all            test everything
# make dashboard-pictures  draw docs/dashboards again (needs Prometheus, npm and Chromium)
# make check | bench | lock | clean

VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --no-input
INSTALL := $(PIP) install --quiet --require-hashes -r
LOCK := $(VENV)/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	--python-version 3.11 --custom-compile-command "make lock"

JOBS := 4

.DEFAULT_GOAL := help
.PHONY: help demo watch kafka test test-all check bench dashboard-pictures lock clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(VENV)/runtime.lock
	@exec $(VENV)/bin/footfall demo $(ARGS)

watch: $(VENV)/runtime.lock
	@exec $(VENV)/bin/footfall watch $(ARGS)

kafka: $(VENV)/runtime.lock
	@exec $(VENV)/bin/python -m footfall.infra.kafka $(ARGS)

# Most tests wait: more processes than cores. For one alone: ARGS="-n 0 ..."
test: check
	@$(VENV)/bin/python -m pytest -n $(JOBS) -m "not slow" $(ARGS)

test-all: check
	@FOOTFALL_LAW_EXAMPLES=60 $(VENV)/bin/python -m pytest -n $(JOBS) $(ARGS)

check: $(VENV)/dev.lock
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy

bench: $(VENV)/dev.lock
	@exec $(VENV)/bin/python -m footfall.benchmarks $(ARGS)

dashboard-pictures: $(VENV)/dev.lock
	@exec $(VENV)/bin/python -m footfall.grafana.pictures $(ARGS)

# Run again by hand after changing the dependencies in pyproject.toml; the environment is
# made anew from the result. UPGRADE="--upgrade" takes newer versions.
lock: $(VENV)/dev.lock
	@$(LOCK) $(UPGRADE) --extra embedded --extra inplace pyproject.toml -o requirements.lock
	@$(LOCK) $(UPGRADE) --all-extras -c requirements.lock pyproject.toml -o requirements-dev.lock
	@echo "locked: requirements.lock, requirements-dev.lock"

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A copy of the lock stands in .venv once all of it is installed.
$(VENV)/runtime.lock: requirements.lock pyproject.toml $(VENV)/made
	@echo "setting up $(VENV): the packages of requirements.lock (some minutes the first time)"
	@$(INSTALL) requirements.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation --no-index --editable .
	@cp requirements.lock $@

$(VENV)/dev.lock: requirements-dev.lock $(VENV)/runtime.lock
	@echo "setting up $(VENV): the packages of requirements-dev.lock"
	@$(INSTALL) requirements-dev.lock
	@cp requirements-dev.lock $@

# Its scripts hold the folder's path: it is made again where the folder was moved.
ifneq ($(shell cat $(VENV)/made 2>/dev/null),$(CURDIR))
.PHONY: $(VENV)/made
endif

# Every match on PATH is tried, newest fitting version first: a version manager's shim may
# exist and not run, and Debian has python3 without ensurepip.
$(VENV)/made:
	@set -f; found=; bare=; IFS=:; \
	for name in $(or $(PYTHON),python3.12 python3.11 python3 python); do \
	  case $$name in */*) set -- "$$name";; *) set -- ; for folder in $$PATH; do set -- "$$@" "$$folder/$$name"; done;; esac; \
	  for candidate in "$$@"; do \
	    [ -z "$$found" ] && [ -x "$$candidate" ] || continue; \
	    "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || continue; \
	    if "$$candidate" -c 'import ensurepip, venv' 2>/dev/null; then found=$$candidate; else bare=$$candidate; fi; \
	  done; \
	done; \
	if [ -z "$$found" ] && [ -n "$$bare" ]; then \
	  echo "footfall: $$bare cannot make a virtual environment; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; \
	fi; \
	if [ -z "$$found" ]; then \
	  echo "footfall: needs Python 3.11 or 3.12; get one with 'apt-get install python3.11 python3.11-venv', 'brew install python@3.12', 'uv python install 3.12' or 'pyenv install 3.12', then: make PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	echo "setting up $(VENV) with $$found"; \
	rm -rf $(VENV); "$$found" -m venv $(VENV); printf '%s\n' "$(CURDIR)" > $@
