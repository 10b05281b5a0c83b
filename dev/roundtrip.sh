#!/bin/sh
# Does a trained checkpoint mean the same in Python? Logits of a text and a greedy continuation, C against float64 PyTorch.
#   dev/roundtrip.sh [MODEL] [TEXT]         needs python3 with torch and numpy: dev/setup.sh --oracle
set -eu
cd "$(dirname "$0")/.."
MODEL=${1:-out/model.safetensors}
TEXT=${2:-let a=4;let c=7;say }
PYTHON=${PYTHON:-python3}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
make -s dev/logits train_gpt2_dynmoe > "$dir/make" || { cat "$dir/make"; exit 1; }
dev/logits "$MODEL" "$TEXT" "$dir/logits.safetensors"
"$PYTHON" dev/dynmoe.py logits "$MODEL" --prompt "$TEXT" --compare "$dir/logits.safetensors"
./train_gpt2_dynmoe --init "$MODEL" --prompt "$TEXT" --generate 80 --temperature 0 > "$dir/c.txt"
"$PYTHON" dev/dynmoe.py generate "$MODEL" --prompt "$TEXT" -n 80 > "$dir/python.txt"
if ! cmp "$dir/c.txt" "$dir/python.txt"; then
    echo "error: the greedy continuations differ" >&2
    exit 1
fi
echo "the same 80 characters, chosen greedily by both:"
cat "$dir/c.txt"
