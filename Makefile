# `make run` starts a whole broker on this machine; `make test` proves that it works.
# Both need nothing but Python 3.11 and make: everything else goes into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet
UV_COMPILE := $(BIN)/uv pip compile --quiet --universal \
	--generate-hashes --no-emit-index-url --no-header --no-config

# More arguments for pytest: make test ARGS="-k ring -x"
ARGS ?=

# Stamps: nothing is installed again until a lock file or pyproject.toml changes.
RUN_READY := $(VENV)/.run-ready
DEV_READY := $(VENV)/.dev-ready
CLIENTS_READY := $(VENV)/.clients-ready

.PHONY: run test clients check fuzz bench fmt generated lock clean
.DELETE_ON_ERROR:

run: $(RUN_READY)
	@$(BIN)/broker dev

# More at a time than half the cores: most tests wait for something.
TESTS_AT_ONCE ?= $(shell cores=$$(nproc); echo $$((cores < 6 ? cores / 2 + 1 : 4)))

# One file stays with one process, and files go out in their order, as the slow ones
# (browser, e2e, fault) come first in it: by default those with the most tests would,
# and one process would be left with the rest.
test: $(DEV_READY)
	$(BIN)/pytest -n $(TESTS_AT_ONCE) --dist loadfile --no-loadscope-reorder $(ARGS)

# What the tests of browsers and of foreign clients need besides Node.js and Chromium;
# they are left out of `make test` where it is not there.
clients: $(CLIENTS_READY)

check: $(DEV_READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# New examples each time, many times as many: what `make test` finds by luck.
PATIENCE ?= 20
FUZZED := tests/unit/worker/test_seam.py tests/unit/store/test_loss.py \
	tests/unit/control/test_commit_property.py
fuzz: $(DEV_READY)
	env -u CI BROKER_TEST_PATIENCE=$(PATIENCE) \
		$(BIN)/pytest -n auto --timeout 0 $(FUZZED) $(ARGS)

bench: $(DEV_READY)
	$(BIN)/python -m tests.bench.bench_protocols
	$(BIN)/python -m tests.bench.bench_ring
	$(BIN)/python -m tests.bench.bench_reader
	$(BIN)/python -m tests.bench.bench_storm

fmt: $(DEV_READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What is made of other files and checked in all the same; tests notice what is old.
generated: $(DEV_READY)
	$(BIN)/python -m broker.config.reference > deploy/SETTINGS.md
	$(BIN)/python -m grafana.build
	$(BIN)/python deploy/kubernetes/monitoring/wrap_rules.py \
		> deploy/kubernetes/monitoring/prometheus-rule.yaml

# Newest versions that pyproject.toml allows; both files agree on what they share.
lock: $(DEV_READY)
	$(INSTALL) 'uv>=0.9'
	rm -f requirements.lock requirements-dev.lock requirements-browser.lock
	$(UV_COMPILE) pyproject.toml --extra dev --group build -o requirements.lock
	$(UV_COMPILE) pyproject.toml --extra dev --group build --group test --group check \
		--constraint requirements.lock -o requirements-dev.lock
	$(UV_COMPILE) --group browser \
		--constraint requirements-dev.lock -o requirements-browser.lock

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache \
		.hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; set PYTHON=/path/to/it" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUN_READY): requirements.lock pyproject.toml | $(BIN)/python
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(DEV_READY): requirements-dev.lock pyproject.toml | $(BIN)/python
	$(INSTALL) --require-hashes -r requirements-dev.lock
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $(RUN_READY) $@

$(CLIENTS_READY): requirements-browser.lock tests/clients/package-lock.json $(DEV_READY)
	$(INSTALL) --require-hashes -r requirements-browser.lock
	npm ci --prefix tests/clients --ignore-scripts --no-audit --no-fund
	node tests/clients/fetch_canvas.mjs
	@touch $@
