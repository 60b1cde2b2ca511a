# `make` lists what there is. Works with GNU make 3.81 (macOS) and later; everything else is sh and Python.
# ARGS is passed on: make run ARGS="--set kimi_identity=own -p 8081"

BIN := .venv/bin
ARGS ?=
PROVIDER ?= kimi
ROUNDS ?= 5
SECONDS ?= 60
# two workers: whole files go to one, since tests of one file share servers and processes, in the order of
# tests/conftest.py; hypothesis without its deadline, and with the same examples in every run
PYTEST := -m pytest -n 2 --dist loadfile --no-loadscope-reorder --hypothesis-profile=ci

.DEFAULT_GOAL := help
.PHONY: help run web login setup setup-dev test coverage test-unit soak lint format bench fuzz audit bench-peers bench-report screenshots check-upstream clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

run: setup ## start the proxy (mitmdump) on 127.0.0.1:8080
	@exec $(BIN)/mitmdump -s addons/kimi.py --listen-host 127.0.0.1 $(ARGS)

web: setup ## the same with mitmproxy's web page
	@exec $(BIN)/mitmweb -s addons/kimi.py --listen-host 127.0.0.1 $(ARGS)

login: setup ## log in to Kimi Code, or to Kiro with PROVIDER=kiro
	@exec $(BIN)/kimi-mitm login $(PROVIDER) $(ARGS)

setup: ## make .venv with the program in it
	@scripts/bootstrap.sh run

setup-dev: ## make .venv with the program and the tools
	@scripts/bootstrap.sh dev

test: lint coverage ## everything that CI runs: lint, unit and end-to-end tests, coverage

coverage: setup-dev ## all tests, with branch coverage of those that start no proxy, and its floor
	@$(BIN)/coverage erase
	$(BIN)/python scripts/all_tests.py $(ARGS)
	@$(BIN)/coverage combine -q
	@$(BIN)/python scripts/coverage_floor.py

test-unit: setup-dev ## the tests that start no mitmdump
	$(BIN)/python $(PYTEST) --ignore=tests/e2e --ignore=tests/chaos $(ARGS)

soak: setup-dev ## tests/chaos with five times as many rounds; ROUNDS=20 for more
	$(BIN)/python $(PYTEST) tests/chaos --soak $(ROUNDS) $(ARGS)

lint: setup-dev ## ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup-dev ## let ruff write the layout
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup-dev ## measure what the addon costs, in about ten minutes
	@$(BIN)/python -m benchmarks $(ARGS)

bench-peers: setup-dev ## install other gateways into .cache/bench, for `make bench` to measure beside the addon
	@$(BIN)/python benchmarks/peers.py --install

bench-report: setup-dev ## measure, and write the results into docs/benchmarks.md
	@$(BIN)/python -m benchmarks --report $(ARGS)

fuzz: setup-dev ## look for input that breaks something: make fuzz SECONDS=600
	FUZZ_SECONDS=$(SECONDS) $(BIN)/python -m pytest -q -n 0 tests/fuzz $(ARGS)

audit: setup-dev ## dependencies as declared, and known holes in them where a database can be asked
	@$(BIN)/python scripts/audit.py

screenshots: setup-dev ## take the pictures in docs/screenshots anew; needs Chromium
	$(BIN)/python scripts/screenshots.py $(ARGS)

check-upstream: setup-dev ## compare the pinned client versions with the newest released ones
	$(BIN)/python scripts/check_upstream.py $(ARGS)

clean: ## remove .venv and everything that tools have left
	rm -rf .venv .venv.lock .cache .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache \
	    .coverage .coverage.* build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
