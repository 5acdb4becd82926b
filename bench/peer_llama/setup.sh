#!/usr/bin/env bash
# Builds the peer of bench/decode_cpu and bench/prefill_cpu: llama.cpp and the program peer_llama, twice.
#
#   bench/peer_llama/setup.sh [--jobs N] [--source SDIST] [FOLDER]      default: build/peer_llama
#
# FOLDER/noamx and FOLDER/amx can be carried to a machine without compiler or network: each holds peer_llama and
# the libraries that it loads from its own folder. They differ in libggml-cpu.so: only that library is compiled with
# instruction-set flags. Without AMX it is compiled by GCC, which made it 2-7 % faster than clang 14 did; with AMX by
# clang, because GCC 12 may drop the stores to AMX's configuration. Needs GCC, clang, libomp, CMake and Ninja
# (apt-get install clang libomp-dev).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
jobs=$(nproc)
source_archive=""
folder="$here/../../build/peer_llama"
while [ $# -gt 0 ]; do
  case $1 in
    --jobs) jobs=$2; shift ;;
    --source) source_archive=$(realpath "$2"); shift ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    -*) echo "setup.sh: unknown option $1" >&2; exit 2 ;;
    *) folder=$1 ;;
  esac
  shift
done
for tool in gcc g++ clang clang++ cmake ninja python3 strip objdump; do
  command -v $tool >/dev/null || { echo "setup.sh: $tool is missing: apt-get install clang libomp-dev cmake ninja-build" >&2; exit 2; }
done
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
work="$folder/work"
mkdir -p "$work"

# The source distribution, checked by its hash; nothing of it is installed.
if [ -z "$source_archive" ]; then
  source_archive=$(find "$work" -name 'llama_cpp_python-*.tar.gz' | head -n 1)
fi
if [ -z "$source_archive" ]; then
  [ -x "$work/venv/bin/pip" ] || python3 -m venv "$work/venv"
  "$work/venv/bin/pip" download --quiet --no-deps --no-binary :all: --require-hashes --dest "$work" \
    --requirement "$here/requirements.txt"
  source_archive=$(find "$work" -name 'llama_cpp_python-*.tar.gz' | head -n 1)
fi
expected=$(sed -n 's/.*--hash=sha256://p' "$here/requirements.txt")
echo "$expected  $source_archive" | sha256sum --check --quiet
version=$(sed -n 's/^llama-cpp-python==\([^ ]*\).*/\1/p' "$here/requirements.txt")
source="$work/source-$version/vendor/llama.cpp"
if [ ! -f "$source/include/llama.h" ]; then
  mkdir -p "$work/source-$version"
  tar xf "$source_archive" -C "$work/source-$version" --strip-components=1
fi

# Everything that decides the speed is named, so that the build does not depend on the machine it runs on.
common=(-G Ninja -DCMAKE_BUILD_TYPE=Release
  -DBUILD_SHARED_LIBS=ON -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON "-DCMAKE_INSTALL_RPATH=\$ORIGIN"
  -DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_BMI2=ON -DGGML_FMA=ON -DGGML_F16C=ON
  -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON
  -DGGML_OPENMP=ON -DGGML_LLAMAFILE=ON -DGGML_CPU_REPACK=ON
  -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
  -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_OPENSSL=OFF)
amx_on=(-DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DGGML_AMX_TILE=ON -DGGML_AMX_INT8=ON -DGGML_AMX_BF16=ON)
# GGML leaves its AMX code out unless the compiler defines this; older clang (14) calls it __AMXINT8__.
if ! clang -mamx-int8 -dM -E -x c /dev/null | grep -q __AMX_INT8__; then
  amx_on+=(-DCMAKE_C_FLAGS=-D__AMX_INT8__=1 -DCMAKE_CXX_FLAGS=-D__AMX_INT8__=1)
fi
amx_off=(-DCMAKE_C_COMPILER=gcc -DCMAKE_CXX_COMPILER=g++ -DGGML_AMX_TILE=OFF -DGGML_AMX_INT8=OFF -DGGML_AMX_BF16=OFF)

cmake -S "$source" -B "$work/noamx" "${common[@]}" "${amx_off[@]}" >"$work/configure.log"
cmake --build "$work/noamx" --parallel "$jobs" --target llama
cmake -S "$source" -B "$work/amx" "${common[@]}" "${amx_on[@]}" >>"$work/configure.log"
cmake --build "$work/amx" --parallel "$jobs" --target ggml-cpu
if [ "$(objdump -d "$work/amx/bin/libggml-cpu.so" | grep -c tdpb)" -eq 0 ]; then
  echo "setup.sh: the build with AMX has no AMX instruction in it" >&2
  exit 1
fi
for build in noamx amx; do
  [ $build = amx ] && compiler=clang || compiler=gcc
  clang++ -std=c++20 -O2 -Wall -Wextra -I "$source/include" -I "$source/ggml/include" \
    "-DPEER_VERSION=\"llama-cpp-python $version, $($compiler --version | head -n 1)\"" \
    "$here/peer_llama.cpp" -o "$work/$build/peer_llama" -L "$work/noamx/bin" -lllama -lggml -lggml-base \
    "-Wl,-rpath,\$ORIGIN" -Wl,--allow-shlib-undefined
  openmp=$(ldd "$work/$build/bin/libggml-cpu.so" | awk '/lib(g|)omp/ {print $3}')
  if [ -z "$openmp" ]; then
    echo "setup.sh: llama.cpp was built without OpenMP: apt-get install libomp-dev, remove $work and try again" >&2
    exit 2
  fi
  rm -rf "${folder:?}/$build"
  mkdir -p "$folder/$build"
  for library in "$work/noamx/bin/libllama.so" "$work/noamx/bin/libggml.so" "$work/noamx/bin/libggml-base.so" \
    "$work/$build/bin/libggml-cpu.so" "$openmp"; do
    name=$(readelf -d "$library" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')
    strip -o "$folder/$build/$name" "$(realpath "$library")"
  done
  strip -o "$folder/$build/peer_llama" "$work/$build/peer_llama"
  cp "$source/LICENSE" "$folder/$build/LICENSE.llama.cpp"
  echo "$folder/$build: $(du -sh "$folder/$build" | cut -f1)"
done
