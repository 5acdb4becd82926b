#!/usr/bin/env bash
# Builds the fuzz targets with clang and runs each for some seconds, from the seeds and from what
# earlier runs found (build-fuzz/corpus). An input that breaks a target is left in build-fuzz/.
#
#   scripts/fuzz.sh [SECONDS [--optional]]
#
# SECONDS for each target, default 60. --optional: without clang++ it says SKIPPED and is content.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-60}
scripts/setup.sh fuzz --quiet
if ! command -v clang++ >/dev/null; then
  if [ "${2:-}" = --optional ]; then
    echo "SKIPPED: fuzzing: clang++ was not found (apt install clang)"
    exit 0
  fi
  echo "fuzz: clang++ was not found: install clang (apt install clang)" >&2
  exit 1
fi
launcher=()
if command -v ccache >/dev/null; then launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
cmake -S . -B build-fuzz "${launcher[@]}" -DQUEST_FUZZ=ON -DQUEST_WITH_TORCH=OFF -DQUEST_BUILD_TESTS=OFF -DQUEST_BUILD_BENCH=OFF \
  -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="-O1 -g1" >/dev/null
targets="safetensors config packed tokenizer toml state"
cmake --build build-fuzz --parallel "$(scripts/jobs.sh)" \
  --target make_corpus $(for t in $targets; do echo "fuzz_$t"; done)
build-fuzz/bin/make_corpus build-fuzz/corpus
for target in $targets; do
  echo "fuzz: $target, $seconds seconds"
  corpus=(build-fuzz/corpus/$target)
  if [ -d fuzz/corpus/$target ]; then corpus+=(fuzz/corpus/$target); fi
  log=build-fuzz/$target.log
  if ! build-fuzz/bin/fuzz_$target -max_total_time="$seconds" -max_len=65536 -rss_limit_mb=2048 -timeout=20 \
      -artifact_prefix=build-fuzz/found-$target- "${corpus[@]}" >"$log" 2>&1; then
    tail -40 "$log" >&2
    echo "fuzz: $target failed; the input is build-fuzz/found-$target-*, the log $log" >&2
    exit 1
  fi
  tail -1 "$log"
done
