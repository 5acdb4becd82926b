#!/usr/bin/env bash
# Runs the tests of a build folder and lists at the end which were skipped, and why.
#
#   scripts/run_tests.sh BUILD_FOLDER [JOBS]
set -euo pipefail
build=${1:?usage: run_tests.sh BUILD_FOLDER [JOBS]}
jobs=${2:-$(nproc)}

status=0
ctest --test-dir "$build" --output-on-failure --no-tests=error --parallel "$jobs" || status=$?
python3 "$(dirname "${BASH_SOURCE[0]}")/list_skipped.py" "$build/Testing/Temporary/LastTest.log"
exit "$status"
