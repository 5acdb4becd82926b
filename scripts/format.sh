#!/usr/bin/env bash
# Formats all C++ sources in place; with --check only names those that are not formatted and fails.
# Uses clang-format 14 (from .venv, else of the system): other releases format differently.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

formatter=
for candidate in .venv/bin/clang-format clang-format-14 clang-format; do
  if command -v "$candidate" >/dev/null 2>&1 && "$candidate" --version 2>/dev/null | grep -q 'version 14\.'; then
    formatter=$candidate
    break
  fi
done
if [ -z "$formatter" ]; then
  echo "format: clang-format 14 was not found: run \`make setup\`, or install it and put it into PATH" >&2
  exit 1
fi

# Tracked files, and new ones that git does not ignore; without a repository, every source below.
list_sources() {
  if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files -z --cached --others --exclude-standard -- '*.cpp' '*.h' '*.cu' '*.cuh'
  else
    find quest tests bench examples \( -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) -print0
  fi
}
existing() {
  while IFS= read -r -d '' file; do
    if [ -f "$file" ]; then printf '%s\0' "$file"; fi
  done
}

if [ "${1:-}" = --check ]; then
  if list_sources | existing | xargs -0 "$formatter" --dry-run -Werror; then
    echo "format: all sources are formatted"
  else
    echo "format: run \`make format\` and commit the result" >&2
    exit 1
  fi
else
  list_sources | existing | xargs -0 "$formatter" -i
fi
