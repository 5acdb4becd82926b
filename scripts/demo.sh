#!/usr/bin/env bash
# `make demo`: from a book's text to three trained models, on a CPU.
#
# Installs and builds what is missing, makes a corpus (the King James Bible of Debian's package bible-kjv),
# trains a tokenizer, tokenizes, trains one small Llama at BF16, W4A4 and W1A1, and shows a table, a picture
# of the loss curves and a text sample of each; then packs the low-bit models, proves that the packed ones
# are the trained ones, and lets them write without torch. Everything goes to demo/. Interrupted (Ctrl-C, kill), it
# goes on where it stopped when started again: each step publishes its result whole, and a training run
# resumes from its last checkpoint.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

recipes=(bf16 w4a4 w1a1)
demo=demo
quest=build/bin/quest
prompt="In the beginning God"
started=$SECONDS

step() { printf '\n== %s\n' "$*"; }
fail() {
  echo "demo: error: $*" >&2
  exit 1
}
# Says which step a signal or an error ended, and how to go on.
current=start
on_exit() {
  local status=$?
  [ "$status" -eq 0 ] || echo "demo: stopped in: $current (status $status). \`make demo\` goes on from here." >&2
}
trap on_exit EXIT

current="setup and build"
step "1/7 setup and build"
make --no-print-directory build PRESET=cpu TARGETS="quest quest-run"

current="corpus"
step "2/7 corpus"
mkdir -p "$demo"
if [ ! -s "$demo/kjv.txt" ]; then
  command -v bible >/dev/null 2>&1 || fail "the program 'bible' is missing: apt-get install bible-kjv"
  bible -f Gen1:1-Rev22:21 >"$demo/kjv.txt.tmp"
  [ "$(wc -c <"$demo/kjv.txt.tmp")" -gt 4000000 ] || fail "'bible -f Gen1:1-Rev22:21' gave too little text"
  mv "$demo/kjv.txt.tmp" "$demo/kjv.txt"
fi
echo "$(wc -l <"$demo/kjv.txt") verses, $(wc -c <"$demo/kjv.txt") bytes"

current="tokenizer"
step "3/7 tokenizer"
if [ ! -d "$demo/tokenizer" ]; then
  rm -rf "$demo/tokenizer.tmp"
  "$quest" tokenizer train "$demo/kjv.txt" --vocab-size 2048 --out "$demo/tokenizer.tmp"
  mv "$demo/tokenizer.tmp" "$demo/tokenizer"
else
  echo "$demo/tokenizer is there"
fi

current="data"
step "4/7 data"
if [ ! -d "$demo/data" ]; then
  "$quest" data "$demo/kjv.txt" --tokenizer "$demo/tokenizer" --out "$demo/data"
else
  echo "$demo/data is there"
fi

for recipe in "${recipes[@]}"; do
  current="training of $recipe"
  step "5/7 training, $recipe"
  "$quest" train --config configs/demo.toml --data "$demo/data" --out "$demo/runs" \
    --quant "$recipe" --name "$recipe"
done

current="results"
step "6/7 results"
runs=()
labels=()
for recipe in "${recipes[@]}"; do
  runs+=("$demo/runs/$recipe")
  labels+=(--label "${recipe^^}")
done
python3 scripts/demo_table.py "${runs[@]}"
"$quest" plot "${runs[@]}" "${labels[@]}" --title "A small Llama on the King James Bible" \
  --out "$demo/loss.png" || echo "demo: no picture (see above); the rest goes on"
for recipe in "${recipes[@]}"; do
  printf '\n-- %s writes:\n' "${recipe^^}"
  "$quest" generate "$demo/runs/$recipe" --prompt "$prompt" --max-tokens 80 --temperature 0.8 --seed 1
done

current="packed models"
step "7/7 packed models"
for recipe in w4a4 w1a1; do
  packed="$demo/packed/$recipe"
  # Kept only if it was made from this run's weights and proven: not after a proof that failed, nor after
  # another training.
  if [ ! -d "$packed" ] || ! "$quest" inspect "$packed" --against "$demo/runs/$recipe" >/dev/null; then
    rm -rf "$packed"
    "$quest" export "$demo/runs/$recipe" --out "$packed"
    "$quest" verify "$packed" --against "$demo/runs/$recipe" --tokens "$demo/data/validation.qtok" \
      --max-tokens 0
  fi
  printf '\n-- %s, packed (%s bytes), writes through quest-run:\n' "${recipe^^}" \
    "$(wc -c <"$packed/model.safetensors")"
  build/bin/quest-run generate "$packed" --prompt "$prompt" --max-tokens 80 --temperature 0.8 --seed 1
done
printf '\nDone in %d min %d s. Runs, curves and models are in %s/runs/, the picture is %s/loss.png.\n' \
  $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)) "$demo" "$demo"
