# Three commands: make install, make report [OUT=dir], make test. They need Debian's python3 (3.11 or
# newer) with venv and pip, or any other Python 3.11+ named by PYTHON=.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?=

.PHONY: install report test test-faults test-cluster lint bench bench-merging clean

install: $(VENV)/.installed

report: $(VENV)/.installed
	$(BIN)/pie-report --model simclr_r18 --merge 0.5 $(if $(OUT),--out $(OUT))

# Two processes with a thread each; a file's tests share what they set up, and stay together.
test: $(VENV)/.tested chromium lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Kills, stops, full disks and damaged files, about 15 minutes on 2 cores; see docs/faults.md. No part of make test.
test-faults: $(VENV)/.installed
	$(BIN)/python tests/faults

# Runs on a real Slurm of two nodes on this machine, about 5 minutes on 2 cores; see docs/cluster.md. Needs root.
# No part of make test.
test-cluster: $(VENV)/.tested slurm
	$(BIN)/python -m pytest tests/cluster/runs.py

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.main_job
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.pie_statistics

# PIE_TEST_DATA and CIFAR10 name the trained weights and the data; see benchmarks/merging.py.
bench-merging: $(VENV)/.installed
	$(BIN)/python -m benchmarks.assignment
	$(BIN)/python -m benchmarks.folding
	$(BIN)/python -m benchmarks.speedup
	$(BIN)/python -m benchmarks.merging

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

# Browser tests need Chromium; without it (and without root to install it) they skip and say so.
.PHONY: chromium
chromium:
	@command -v chromium >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } >/dev/null

.PHONY: slurm
slurm:
	@[ "$$(id -u)" = 0 ] || { echo "make test-cluster needs root, to start a Slurm of its own" >&2; exit 1; }
	@PATH=$$PATH:/usr/sbin; command -v slurmctld >/dev/null && command -v slurmd >/dev/null && \
		command -v munged >/dev/null || \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		slurm-wlm slurm-wlm-basic-plugins munge; } >/dev/null || \
		{ echo "make test-cluster needs slurmctld, slurmd and munged; apt-get cannot install them" >&2; exit 1; }

clean:
	rm -rf $(VENV)
