#!/usr/bin/env bash
# Prints how many compilers to run at once: one per core, but 1.5 GB of free memory for each, because a
# file that includes torch needs that much.
set -euo pipefail
cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
by_memory=$(awk '/^MemAvailable:/ { print int($2 / 1500000) }' /proc/meminfo 2>/dev/null || true)
jobs=$cores
if [ -n "$by_memory" ] && [ "$by_memory" -lt "$jobs" ]; then jobs=$by_memory; fi
if [ "$jobs" -lt 1 ]; then jobs=1; fi
echo "$jobs"
