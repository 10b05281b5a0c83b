#!/bin/sh
# A trained ViT checkpoint read by two programs: the loss and the class of every picture must be the same in train_vit_dynmoe
# (fp32) and in dev/dynmoe.py (float64 PyTorch).
#   dev/roundtrip_vit.sh MODEL PICTURES [N]         PICTURES of CIFAR-100's layout (data/shapes, dev/images.py); N of them (64)
# Needs PyTorch (dev/setup.sh --oracle). Exit status 1 if a loss differs by more than 1e-5 nats, or a class at all.
set -eu
cd "$(dirname "$0")/.."
if [ $# -lt 2 ]; then sed -n '2,5s/^# *//p' "$0" >&2; exit 2; fi
python=python3
$python -c 'import torch' 2> /dev/null || python=/usr/bin/python3
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
n=${3:-64}
./train_vit_dynmoe --init "$1" --eval-only --data "$2" --val "$2" --layout cifar100 --val-pictures "$n" --dtype fp32 \
    --dump-routing "$tmp/program" | grep '^validation:'
$python dev/dynmoe.py logits "$1" --images "$2" --labels 2 -n "$n" --out "$tmp/oracle"
$python - "$tmp" <<'PYTHON'
import sys
sys.path.insert(0, "dev")
import dynmoe, numpy, torch
program, _ = dynmoe.read_safetensors(sys.argv[1] + "/program")
oracle, _ = dynmoe.read_safetensors(sys.argv[1] + "/oracle")
logits = torch.tensor(numpy.array(oracle["logits"])).double()
loss = torch.nn.functional.cross_entropy(logits, torch.tensor(numpy.array(program["label"])).long(), reduction="none").numpy()
worst, classes = abs(loss - program["loss"]).max(), (logits.argmax(1).numpy() != program["predicted"]).sum()
print("%d pictures: losses differ by at most %.1e nats, %d classes differ" % (len(loss), worst, classes))
sys.exit(not (worst < 1e-5 and classes == 0))
PYTHON
