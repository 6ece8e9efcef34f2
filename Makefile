# clipmill: set up, build, run, test. `make` alone lists the targets.
#
# LibTorch comes with torch==2.11.0 in .venv. To use another one, set LIBTORCH to its folder (no
# .venv is made then); for a smaller, CPU-only one, set TORCH_INDEX to PyTorch's index of those.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup build run test test-cluster test-cluster-short test-airflow browser lint bench bench-full fuzz soak mutations doc clean

TORCH_VERSION := 2.11.0
PYTHON ?= python3
CARGO_FLAGS := --release --locked
LINT ?= cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings

ifeq ($(LIBTORCH),)
  VENV_TORCH := .venv/torch-$(TORCH_VERSION).done
  VENV_ORACLES := .venv/oracles.done
  VENV_PEERS := .venv/peers.done
endif
# Set by Python environments; torch-sys would look there instead.
unexport LIBTORCH_USE_PYTORCH

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV_TORCH) ## Install what the build needs: system packages, LibTorch in .venv
	@$(SYSTEM_PACKAGES)

build: setup ## Build the program: target/release/clipmill
	cargo build $(CARGO_FLAGS)

run: build ## Score the sample table and show which captions do not fit
	target/release/clipmill run pipelines/sample.toml

# Unit tests in one process: LibTorch takes a third of a second to start, and there are hundreds of
# them. Threads that wait sleep: several programs share the cores here.
test: export OMP_WAIT_POLICY := PASSIVE
test: setup $(VENV_ORACLES) browser ## Run all tests, against the oracles in tests/requirements.txt
	@if cargo nextest --version >/dev/null 2>&1; then \
	  echo cargo test $(CARGO_FLAGS) --lib; cargo test $(CARGO_FLAGS) --lib -- --quiet; \
	  echo cargo nextest run $(CARGO_FLAGS); cargo nextest run $(CARGO_FLAGS) -E 'not kind(lib)'; \
	else \
	  echo cargo test $(CARGO_FLAGS); cargo test $(CARGO_FLAGS); \
	fi

test-cluster: build .venv/cluster.done test-airflow ## Ray, Ray Data and Spark drive the program; nodes and workers die
	.venv/cluster/bin/python tests/cluster_ray/cluster.py $(CLUSTER_FLAGS)

test-cluster-short: build .venv/cluster.done ## The part of test-cluster that CI runs: a worker, a node and a task die
	.venv/cluster/bin/python tests/cluster_ray/cluster.py --only nodes,spark

test-airflow: build .venv/airflow.done ## An Airflow runs the nightly DAG; part of test-cluster
	.venv/airflow/bin/python tests/cluster_ray/nightly.py

# Looks at reports; the tests say that they are skipped without it. Never fails.
browser:
	@if command -v chromium || command -v chromium-browser || command -v google-chrome; then :; \
	elif ! command -v apt-get; then echo "no Chromium: tests of reports will be skipped" >&2; \
	elif [ "$$(id -u)" = 0 ]; then $(call INSTALL_CHROMIUM,); \
	elif sudo -n true 2>/dev/null; then $(call INSTALL_CHROMIUM,sudo); \
	else echo "tests of reports will be skipped; for them: sudo apt-get install -y chromium" >&2; \
	fi >/dev/null

lint: setup ## Check formatting and lints, warnings are errors
	cargo fmt --check
	$(LINT)

bench: build $(VENV_PEERS) ## Compare speed with other programs, in one run on this machine
	@test -x .venv/peers/bin/python || { echo "the peers are in .venv: unset LIBTORCH first" >&2; exit 1; }
	.venv/peers/bin/python tests/bench/bench.py $(BENCH_FLAGS)

bench-full: BENCH_FLAGS := --full
bench-full: bench ## The same with more rounds and peers, and the memory of a million rows

fuzz: setup $(VENV_ORACLES) ## Changed bytes for the parsers of strangers' bytes, a minute each
	CLIPMILL_FUZZ=60 cargo test $(CARGO_FLAGS) --test tests -- fuzz:: --nocapture --test-threads 1

soak: setup $(VENV_ORACLES) ## Kill runs 9,000 times, and refuse every call in every way; an hour or so
	CLIPMILL_SOAK=9000 cargo test $(CARGO_FLAGS) --test tests -- --nocapture faults::killed_at faults::what_the_disk

mutations: setup $(VENV_ORACLES) ## Take each safeguard away in turn; a test must notice
	.venv/bin/python tests/faults/mutations.py

doc: setup ## Build the API documentation: target/doc/clipmill
	RUSTDOCFLAGS="-D warnings" cargo doc $(CARGO_FLAGS) --no-deps

clean: ## Remove everything that make made
	rm -rf target out .venv

# .venv/torch is a link to the package, so that the path does not depend on Python's version.
.venv/torch-$(TORCH_VERSION).done:
	@$(SYSTEM_PACKAGES)
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check torch==$(TORCH_VERSION) \
	  $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	ln -sfn "$$(.venv/bin/python -c 'import importlib.util as u; \
	  print(u.find_spec("torch").submodule_search_locations[0])')" .venv/torch
	touch $@

.venv/oracles.done: tests/requirements.txt $(VENV_TORCH)
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

# The peers see the oracles' packages, torch among them, and bring their own beside them.
.venv/peers.done: tests/bench/requirements.txt $(VENV_ORACLES)
	.venv/bin/python -m venv .venv/peers
	.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
	  "$$(.venv/peers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/oracles.pth"
	.venv/peers/bin/python -m pip install --quiet --disable-pip-version-check -r tests/bench/requirements.txt
	touch $@

# The engines and Airflow have packages of their own: they need no torch.
.venv/cluster.done: tests/cluster_ray/requirements.txt
	$(PYTHON) -m venv .venv/cluster
	.venv/cluster/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

.venv/airflow.done: tests/cluster_ray/requirements-airflow.txt
	$(PYTHON) -m venv .venv/airflow
	.venv/airflow/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

INSTALL_CHROMIUM = { $(1) apt-get update -qq && \
	  $(1) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; } || \
	  echo "chromium could not be installed: tests of reports will be skipped" >&2

# Finds the tools that the build calls; installs the missing ones with apt where that is
# permitted, and otherwise says what to type.
define SYSTEM_PACKAGES
	missing=; \
	command -v c++ >/dev/null || missing="$$missing g++"; \
	command -v cmake >/dev/null || missing="$$missing cmake"; \
	command -v nasm >/dev/null || missing="$$missing nasm"; \
	if [ -n "$(VENV_TORCH)" ]; then \
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	fi; \
	if [ -n "$$missing" ]; then \
	  install="apt-get install -y$$missing"; \
	  if ! command -v apt-get >/dev/null; then \
	    echo "missing:$$missing; install them with your system's package manager, then go on" >&2; exit 1; \
	  elif [ "$$(id -u)" = 0 ]; then \
	    echo "$$install"; apt-get update -qq; DEBIAN_FRONTEND=noninteractive $$install -qq; \
	  elif sudo -n true 2>/dev/null; then \
	    echo "sudo $$install"; sudo apt-get update -qq; sudo DEBIAN_FRONTEND=noninteractive $$install -qq; \
	  else \
	    echo "missing:$$missing; type this, then go on: sudo $$install" >&2; exit 1; \
	  fi; \
	fi; \
	if ! command -v cargo >/dev/null; then \
	  echo "missing: Rust; type this, then go on: curl -sSf https://sh.rustup.rs | sh -s -- -y && . ~/.cargo/env" >&2; exit 1; \
	fi
endef
