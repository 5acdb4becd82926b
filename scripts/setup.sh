#!/usr/bin/env bash
# Installs what building QuEST needs, and only what is missing: packages of scripts/packages-apt.txt with
# apt-get (through sudo if not root), torch and the formatter of scripts/requirements-*.txt into .venv.
#
#   scripts/setup.sh [cpu|cuda|asan|fuzz] [--quiet]
#
# cpu: LibTorch without the GPU's packages (1.3 GB in .venv). cuda: all of torch, nvcc and CUTLASS. asan: no torch.
# fuzz: no torch, and clang.
# With QUEST_TORCH_DIR=/path/to/libtorch (or a torch package's folder) set, that torch is used and nothing
# is put into .venv. Running it again when all is there takes a second and changes nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=cpu
quiet=0
for argument in "$@"; do
  case "$argument" in
    cpu | cuda | asan | fuzz) preset=$argument ;;
    --quiet) quiet=1 ;;
    *)
      echo "setup: unknown argument '$argument'; usage: scripts/setup.sh [cpu|cuda|asan|fuzz] [--quiet]" >&2
      exit 2
      ;;
  esac
done

say() { [ "$quiet" = 1 ] || echo "setup: $*"; }
announce() { echo "setup: $*"; }
fail() {
  echo "setup: error: $*" >&2
  exit 1
}

# is_present PACKAGE CHECK: CHECK is a command, py:MODULE or "-" (ask dpkg).
is_present() {
  case "$2" in
    py:*) python3 -c "import ${2#py:}" >/dev/null 2>&1 ;;
    -) [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ] ;;
    *) command -v "$2" >/dev/null 2>&1 ;;
  esac
}

# Sets the arrays required and optional to the packages that are missing.
find_missing() {
  required=()
  optional=()
  local package check need why
  while IFS='|' read -r package check need why; do
    package=${package//[[:space:]]/}
    check=${check//[[:space:]]/}
    need=${need//[[:space:]]/}
    case "$package" in '' | '#'*) continue ;; esac
    if [ "$need" = fuzz ] && [ "$preset" != fuzz ]; then continue; fi
    is_present "$package" "$check" && continue
    if [ "$need" = required ]; then required+=("$package"); else optional+=("$package"); fi
  done < <(grep -v '^#' scripts/packages-apt.txt)
}

# "package: why" lines of the given packages.
explain() {
  local package
  for package in "$@"; do
    awk -F'|' -v p="$package" '{ name = $1; gsub(/[ \t]/, "", name) }
      name == p { why = $4; sub(/^[ \t]+/, "", why); printf "         %-20s %s\n", p, why }' \
      scripts/packages-apt.txt
  done
}

# apt_install PACKAGE...
apt_install() {
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || fail "packages are missing, this is not root and there is no sudo." \
      "Ask an administrator to run: apt-get install $*"
    as_root=(sudo)
  fi
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    -o DPkg::Lock::Timeout=300 "$@" </dev/null
}

setup_packages() {
  if ! command -v apt-get >/dev/null 2>&1 || ! command -v dpkg-query >/dev/null 2>&1; then
    local tools=() tool
    for tool in cmake ninja c++ python3; do
      command -v "$tool" >/dev/null 2>&1 || tools+=("$tool")
    done
    [ ${#tools[@]} -eq 0 ] || fail "this system has no apt-get and lacks: ${tools[*]}. Install with its own" \
      "package manager what scripts/packages-apt.txt lists, then run this again."
    say "no apt-get here: taking the libraries of scripts/packages-apt.txt as installed by other means"
    return
  fi
  find_missing
  local missing=(${required[@]+"${required[@]}"} ${optional[@]+"${optional[@]}"})
  if [ ${#missing[@]} -eq 0 ]; then
    say "all system packages are there"
    return
  fi
  announce "installing system packages with apt-get:"
  explain "${missing[@]}"
  local as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  if [ ${#as_root[@]} -eq 0 ] || command -v sudo >/dev/null 2>&1; then
    "${as_root[@]}" apt-get update -q -o DPkg::Lock::Timeout=300 </dev/null ||
      announce "apt-get update failed; trying with the package lists that are there"
  fi
  if [ ${#required[@]} -gt 0 ]; then
    apt_install "${required[@]}" || fail "apt-get could not install: ${required[*]} (see above)." \
      "Debian 12 and Ubuntu 22.04 or newer have all of them (Ubuntu: in 'universe')."
  fi
  local package
  for package in ${optional[@]+"${optional[@]}"}; do
    (apt_install "$package") || announce "could not install $package; going on without:" \
      "$(explain "$package" | sed "s/^ *$package *//")"
  done
}

# Installs a requirements file into .venv unless its stamp says that just this was done.
# install_requirements FILE PIP_OPTION...
install_requirements() {
  local file=$1 stamp
  shift
  stamp=.venv/.installed-$(basename "$file")
  if cmp -s "$file" "$stamp"; then
    say "$(grep -v '^#' "$file" | tr '\n' ' ')is in .venv"
    return
  fi
  announce "installing into .venv: $(grep -v '^#' "$file" | tr '\n' ' ')"
  .venv/bin/python -m pip install --disable-pip-version-check --no-input --no-warn-script-location \
    "$@" -r "$file" </dev/null ||
    fail "pip could not install $file (see above). It needs the network and Python 3.10 or newer" \
      "($(.venv/bin/python --version 2>&1)); a torch from elsewhere: QUEST_TORCH_DIR=/path/to/libtorch."
  cp "$file" "$stamp.tmp" && mv "$stamp.tmp" "$stamp"
}

setup_venv() {
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    announce "creating .venv"
    python3 -m venv --clear .venv </dev/null || fail "python3 -m venv failed (see above)"
  fi
  install_requirements scripts/requirements-tools.txt
  case "$preset" in
    cpu) install_requirements scripts/requirements-cpu.txt --no-deps ;;
    cuda)
      install_requirements scripts/requirements-cuda.txt
      install_requirements scripts/requirements-cutlass.txt --no-deps
      ;;
    asan | fuzz) ;;
  esac
}

setup_packages
if [ -n "${QUEST_TORCH_DIR:-}" ]; then
  [ -f "$QUEST_TORCH_DIR/include/ATen/ATen.h" ] || fail "QUEST_TORCH_DIR is '$QUEST_TORCH_DIR', which has no" \
    "include/ATen/ATen.h; it must name the folder of a LibTorch or of an installed torch package."
  say "using the torch in $QUEST_TORCH_DIR"
else
  setup_venv
fi
say "ready"
