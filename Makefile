# make quickstart = environment + the first comparison; make test = everything that CI runs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# More than there are cores: a third of the time tests wait for a server, a terminal or a clock.
WORKERS ?= $(shell echo $$(( $$(nproc) + 3 )))
# Some shells forbid it, and then each of the thousand processes of a test run compiles the project anew.
unexport PYTHONDONTWRITEBYTECODE
STAMP := $(VENV)/.installed

.PHONY: help quickstart install test check fast bench faults faults-dispatch faults-store faults-numerics deps format

help:
	@echo "make quickstart  install into $(VENV) and train the quickstart sweep in ./workspace"
	@echo "make test        install, system tools, every test        make check   format, lint, types, contracts, fast tests"
	@echo "make bench       throughput and speed figures              make faults  every campaign: kills, faults, fuzz"
	@echo "make deps        system tools of the end-to-end tests (tmux, openssh-server, chromium)"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "optsweep needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[torch,jax,dev]'
	@touch $@

quickstart: install
	$(BIN)/optsweep quickstart --workspace workspace

deps:
	@sh tests/system-tools.sh

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -m 'not slow and not system' tests

# Files side by side, in their order: the long ones of tests/app and tests/e2e first, so that no core waits for them at the end.
test: install deps
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests

bench: install
	$(BIN)/python benchmarks/run_all.py

# The campaigns: each part by itself, or all of them; with -j2 on idle cores side by side.
faults: faults-dispatch faults-store faults-numerics

faults-dispatch: install
	OPTSWEEP_FAULTS=20 $(BIN)/python -m pytest -q tests/e2e/test_kill.py tests/cli/test_keeping_trouble.py tests/e2e/test_ssh_states.py
	OPTSWEEP_SSH_FAULTS=60 OPTSWEEP_SSH_RUNS=40 OPTSWEEP_SSH_RATIO=0.1 $(BIN)/python -m pytest -q -s tests/e2e/test_ssh_faults.py
	OPTSWEEP_EVERYWHERE_FAULTS=300 $(BIN)/python -m pytest -q -s tests/e2e/test_everywhere.py
	OPTSWEEP_SSH_CUTS=40 OPTSWEEP_SSH_CUT_SECONDS=180 $(BIN)/python -m pytest -q --timeout 3600 tests/e2e/test_ssh.py
	OPTSWEEP_SLURM_FAULTS=60 OPTSWEEP_SLURM_TIME_LIMIT=1 $(BIN)/python -m pytest -q --timeout 3600 tests/e2e/test_slurm.py

faults-store: install
	OPTSWEEP_FUZZ=20000 $(BIN)/python -m pytest -q tests/store/test_import_marin.py tests/store/test_import_files.py \
		tests/store/test_import_logs.py tests/store/test_import_olmo.py tests/store/test_export_bundle.py -k mutated
	OPTSWEEP_STORE_KILLS=200 $(BIN)/python -m pytest -q -s --timeout 7200 tests/store/test_store_crash.py -k killed_collectors
	OPTSWEEP_STORE_MUTATIONS=40000 OPTSWEEP_STORE_GARBAGE=300 $(BIN)/python -m pytest -q -s --timeout 7200 tests/store/test_store_lines.py
	OPTSWEEP_STORE_LINE_BYTES=1073741824 OPTSWEEP_STORE_HELD_SECONDS=60 $(BIN)/python -m pytest -q --timeout 600 \
		tests/store/test_ingest.py tests/store/test_store_connect.py -k 'gigabyte or holds_the_file'
	OPTSWEEP_TOGETHER_SECONDS=300 $(BIN)/python -m pytest -q -s --timeout 900 tests/e2e/test_together.py -k side_by_side

faults-numerics: install
	OPTSWEEP_RESUME_KILLS=20 OPTSWEEP_RESUME_STEPS=400 $(BIN)/python -m pytest -q --timeout 7200 tests/e2e/test_certificates.py tests/numerics/test_resume.py -k kill
	OPTSWEEP_JAX_RULES=all OPTSWEEP_JAX_RULE_STEPS=14 $(BIN)/python -m pytest -q --timeout 7200 tests/jax
	OPTSWEEP_COVERAGE_DRAWS=1500 $(BIN)/python -m pytest -q tests/unit/test_analysis_coverage.py

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
