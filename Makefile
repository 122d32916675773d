# `make run` and `make test` set up everything they need. `make help` lists the rest.
.DEFAULT_GOAL := help
BIN := .venv/bin
.PHONY: help run test fuzz soak test-real screenshots bench check format lock clean setup setup-dev

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: setup ## serve on http://127.0.0.1:8000 (settings: environment or .env); REDIS=1: two workers that share runs; NGINX=1: nginx in front
ifdef NGINX
	@exec scripts/with-nginx $(if $(REDIS),scripts/with-redis) $(BIN)/python app.py
else ifdef REDIS
	@exec scripts/with-redis $(BIN)/python app.py
else
	@exec $(BIN)/python app.py
endif

test: setup-dev ## all tests but the real upstreams: unit, live processes, faults, browser
	@scripts/ensure-chromium
	@scripts/ensure-tools
	$(BIN)/python -m pytest -q
	$(BIN)/python -m pytest -q tests/browser --confcutdir=tests/browser

fuzz: setup-dev ## what strangers may send, under a coverage-guided fuzzer; SECONDS=60 a target unless told otherwise
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60)

soak: setup-dev ## mixed traffic with faults; SECONDS=1800 unless told otherwise
	$(BIN)/python -m tests.faults.soak --seconds $(or $(SECONDS),1800)

test-real: setup-dev ## tests against a real engine and a real mock server (compiles once, several minutes)
	@scripts/ensure-chromium
	@scripts/test-real

screenshots: setup-dev ## docs/images, from the running page
	@scripts/ensure-chromium
	$(BIN)/python -m tests.browser.screenshots

bench: setup .venv-bench/.installed ## what a token costs here, beside peers; LITELLM=1: beside its proxy too; ARGS="--rounds 5"
ifdef LITELLM
	@$(MAKE) --no-print-directory .venv-bench-litellm/.installed
endif
	$(BIN)/python -m bench $(ARGS)

.venv-bench/.installed: bench/peers/requirements.txt
.venv-bench-litellm/.installed: bench/peers/requirements-litellm.txt
.venv-bench/.installed .venv-bench-litellm/.installed:
	$(BIN)/python -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

check: setup-dev ## format, lint, types, known holes in what is pinned
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@scripts/audit

format: setup-dev ## format the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: setup-dev ## compile pyproject.toml's ranges into exact pins with hashes, for all platforms
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes pyproject.toml -o requirements.txt \
	  --custom-compile-command "make lock"
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --group dev --extra otel pyproject.toml \
	  -c requirements.txt -o requirements-dev.txt --custom-compile-command "make lock"

clean: ## remove what the other targets made
	rm -rf .venv .venv-real .venv-bench .venv-bench-litellm .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/real/node_modules

setup:
	@scripts/setup requirements.txt

setup-dev:
	@scripts/setup requirements-dev.txt
