# `make` lists what there is. Variables: PRESET=cpu|cuda|asan (default cpu), JOBS=n, PREFIX=/usr/local,
# QUEST_TORCH_DIR=/path/to/libtorch (a torch of your own instead of .venv's), TARGETS="quest ..." (build
# only these), ARCHITECTURES="80;90a" (PRESET=cuda: compute capabilities to compile for; default 90a).
PRESET ?= cpu
PREFIX ?= /usr/local
JOBS ?= $(shell scripts/jobs.sh)
# The presets of CMakePresets.json and their build folders.
BUILD_cpu := build
BUILD_cuda := build-cuda
BUILD_asan := build-asan
BUILD := $(BUILD_$(PRESET))
ifeq ($(BUILD),)
$(error there is no PRESET '$(PRESET)'; there are cpu, cuda and asan)
endif
CCACHE := $(if $(shell command -v ccache),-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
TORCH := $(if $(QUEST_TORCH_DIR),-DQUEST_TORCH_DIR="$(QUEST_TORCH_DIR)")
GPUS := $(if $(ARCHITECTURES),-DCMAKE_CUDA_ARCHITECTURES="$(ARCHITECTURES)")
export QUEST_TORCH_DIR

.DEFAULT_GOAL := help
.PHONY: help setup build test unit-test demo bench install format format-check asan fuzz clean

help:  ## this list
	@echo "QuEST: train and run language models with 1- to 8-bit weights and activations. Targets:"
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup:  ## install what is missing (apt packages, torch into .venv); says what
	@scripts/setup.sh $(PRESET)

build:  ## setup, configure, compile; programs are then in build/bin/ (PRESET=cuda: build-cuda/bin/; asan: build-asan/bin/)
	@scripts/setup.sh $(PRESET) --quiet
	cmake --preset $(PRESET) $(CCACHE) $(TORCH) $(GPUS)
	cmake --build $(BUILD) --parallel $(JOBS) $(if $(TARGETS),--target $(TARGETS))

test: build  ## all checks from a clean clone: build, tests, format, sanitizers, a short fuzzing
	scripts/run_tests.sh $(BUILD) $(JOBS)
	scripts/format.sh --check
	+$(MAKE) --no-print-directory asan
	scripts/fuzz.sh 5 --optional
	@echo "All checks passed."

unit-test: build  ## build and tests only
	scripts/run_tests.sh $(BUILD) $(JOBS)

asan:  ## build and test the torch-free rooms under the address and undefined-behaviour sanitizers
	@scripts/setup.sh asan --quiet
	cmake --preset asan $(CCACHE)
	cmake --build build-asan --parallel $(JOBS)
	scripts/run_tests.sh build-asan $(JOBS)

fuzz:  ## fuzz the readers of files from outside with clang, SECONDS=60 each
	scripts/fuzz.sh $(or $(SECONDS),60)

demo:  ## from a book's text to three trained models, a table, a picture and their writing
	@scripts/demo.sh

bench: build  ## run the benchmarks; results go to build/bench/
	scripts/bench.sh $(BUILD)

install: build  ## install programs, libraries, headers and the CMake package below PREFIX
	cmake --install $(BUILD) --prefix "$(PREFIX)"

format:  ## format the sources in place
	@scripts/format.sh

format-check:  ## fail if a source is not formatted
	@scripts/format.sh --check

clean:  ## remove the build folders (.venv and runs stay)
	rm -rf build build-cuda build-asan build-fuzz
