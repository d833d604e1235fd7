# `make` lists what there is to make. Everything runs in .venv, from the locked versions.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
SERVE := .venv/.serve
TEST := .venv/.test

.PHONY: help serve dev test watch cover check fmt migrate stack bench load queue crash coherence idempotency jobs accounts lock tools clean

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

serve: $(SERVE) ## install, migrate and serve on http://localhost:3000
	@$(BIN)/walnut serve

dev: $(SERVE) ## the same, and start anew when the code changes
	@$(BIN)/walnut serve --reload

test: $(TEST) tools ## install what the tests need, and run every test
	$(BIN)/pytest -n 2 --dist loadfile -m "not alone"
	$(BIN)/pytest -m alone

watch: $(TEST) ## run the quick tests whenever a file changes
	$(BIN)/python -m tests.watch

cover: $(TEST) ## run the quick tests and say which lines none of them reached
	$(BIN)/coverage run -m pytest tests --ignore=tests/system
	$(BIN)/coverage report --show-missing --skip-covered

check: $(TEST) ## format, lint, types and house rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_house_rules.py

fmt: $(TEST) ## put the code in its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

migrate: $(SERVE) ## bring the database to the shape this version needs
	@$(BIN)/walnut db upgrade

stack: $(TEST) tools ## start Redis, two replicas and Nginx on http://localhost:8080
	@$(BIN)/python -m tests.system.stack

bench: $(TEST) tools ## measure requests per second and p99, against a bare Flask route
	@$(BIN)/python -m bench
	@$(BIN)/python -m bench --redis

load: $(TEST) ## 200 people submit jobs for a minute and ask for them: thresholds, and that the queue drains
	@$(BIN)/python -m bench.jobs

crash: $(TEST) ## the long proof: 100 rounds of kill -9 under load
	CRASH_ROUNDS=100 $(BIN)/pytest -q tests/system/test_crash.py --timeout 3600

coherence: $(TEST) tools ## the long proof: 50,000 writes and reads through two replicas, with Redis failing
	COHERENCE_ROUNDS=50000 COHERENCE_EXAMPLES=500 $(BIN)/pytest -q tests/system/test_coherence.py \
		tests/system/test_coherence_states.py --timeout 7200

idempotency: $(TEST) tools ## the long proof: 50 twins of 200 keys, killed at every fail point
	IDEMPOTENCY_KEYS=200 $(BIN)/pytest -q tests/system/test_idempotency.py --timeout 3600

jobs: $(TEST) ## the long proof: 1,000 jobs, four workers, kill -9 every half second; and a limit of 500 calls
	JOBS_SECONDS=60 JOBS_COUNT=1000 JOBS_PACED=500 $(BIN)/pytest -q -s tests/system/test_jobs.py --timeout 3600

accounts: $(TEST) tools ## the long proof: 1,000 calls a replica after each end of a session, reads while 20 sign in, and the time of a login
	ACCOUNTS_CALLS=1000 ACCOUNTS_ROUNDS=9 ACCOUNTS_TRIES=300 $(BIN)/pytest -q -s tests/system/test_accounts.py \
		tests/system/test_login_timing.py --timeout 3600

queue: $(TEST) ## measure the queue: jobs per second, from commit to start, an idle worker, among a million that ended
	@$(BIN)/python -m gevent.monkey --module bench.queue

lock: $(TEST) ## resolve the dependencies anew into the lock files
	$(BIN)/uv pip compile pyproject.toml --upgrade $(LOCK) -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --upgrade $(LOCK) --group dev -o requirements-dev.lock

LOCK := --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet

# What the tests drive for real, from Debian's packages, where it is missing.
tools:
	@missing=""; \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	test -x /usr/sbin/nginx || command -v nginx >/dev/null || missing="$$missing nginx"; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	command -v strace >/dev/null || missing="$$missing strace"; \
	command -v promtool >/dev/null || missing="$$missing prometheus"; \
	command -v wrk >/dev/null || missing="$$missing wrk"; \
	if [ -n "$$missing" ]; then sh tests/system/install.sh $$missing; fi

# Makes .venv, anew if its Python is too old.
NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
VENV = $(PYTHON) $(NEW_ENOUGH) || { echo "Walnut needs Python 3.11 or newer. Try: make PYTHON=python3.12 ..." >&2; exit 1; }; \
	{ test -x $(BIN)/python && $(BIN)/python $(NEW_ENOUGH); } || $(PYTHON) -m venv --clear .venv

# A virtual environment with exactly what the lock file names, and this folder as the package `api`.
$(SERVE): requirements.lock pyproject.toml
	@$(VENV)
	@echo "Installing into .venv ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(TEST): requirements-dev.lock pyproject.toml
	@$(VENV)
	@echo "Installing into .venv, with what the tests need ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@ $(SERVE)

clean: ## remove what was installed and built, but no data
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
