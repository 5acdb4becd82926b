#!/usr/bin/env bash
# Runs every benchmark program of a build folder and keeps what each prints in BUILD/bench/.
#
#   scripts/bench.sh BUILD_FOLDER [NAME...]     # names of single benchmarks, e.g. gemm_lowbit_bench
set -euo pipefail
build=${1:?usage: bench.sh BUILD_FOLDER [NAME...]}
shift
results=$build/bench
mkdir -p "$results"

programs=()
if [ $# -gt 0 ]; then
  for name in "$@"; do programs+=("$build/bin/$name"); done
else
  for program in "$build"/bin/*_bench; do
    if [ -x "$program" ]; then programs+=("$program"); fi
  done
fi
[ ${#programs[@]} -gt 0 ] || {
  echo "bench: no benchmark programs in $build/bin" >&2
  exit 1
}
for program in "${programs[@]}"; do
  name=$(basename "$program")
  echo "== $name"
  "$program" | tee "$results/$name.txt"
done
echo "bench: results are in $results/"
