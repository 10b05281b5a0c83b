#!/bin/sh
# dev/peer_torch.py: each way to bring rows to experts has the oracle's loss and gradients; a table of routing has the k that was
# asked for; what this PyTorch lacks is said in one line. Without PyTorch nothing is tested. Ends with `N passed, N failed`.
set -u
cd "$(dirname "$0")/.." || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
for py in python3 /usr/bin/python3 none; do "$py" -c 'import torch, numpy' 2> /dev/null && break; done
if [ "$py" = none ]; then echo "no PyTorch: not tested"; exit 0; fi
export OMP_NUM_THREADS=1

result() { # what it shows, 0 if it passed
    if [ "$2" -eq 0 ]; then passed=$((passed + 1)); return; fi
    failed=$((failed + 1))
    echo "FAILED: $1"
    tail -n 12 "$tmp/seen" | sed 's/^/    /'
}

# normalised and detached gradient of 1/k, tau 4, tokens without experts, no expert at all, no DynMoE layer
"$py" dev/peer_torch.py --device cpu --check test/fixtures/normalised.safetensors test/fixtures/detached.safetensors \
    test/fixtures/scale.safetensors test/fixtures/allzero.safetensors test/fixtures/dense.safetensors > "$tmp/seen" 2>&1
result "loss and gradients of the oracle" $?
grep -q '^3[0-9] passed, 0 failed\|^4[0-9] passed, 0 failed' "$tmp/seen"
result "as many comparisons as there should be" $?

tiny="--device cpu --B 2 --T 32 --C 16 --L 2 --NH 2 --V 128 --steps 2 --warmup 0"
# shellcheck disable=SC2086 # flags are several words
loss() { "$py" dev/peer_torch.py $tiny "$@" > "$tmp/seen" 2>&1 && sed 's/.*"loss": \([0-9.]*\),.*/\1/' "$tmp/seen"; }
a=$(loss --k 3 --zipf 0.7)
grep -q '"dispatch": "index".*"k": [23]\.[0-9]*, "fixed": 1, "zipf": 0.7' "$tmp/seen"
result "a run prints one line" $?
sed 's/.*"k": \([0-9.]*\),.*/\1/' "$tmp/seen" | awk '{ exit !($1 > 2.6 && $1 < 3.4) }'
result "k is what was asked for" $?
b=$(loss --k 3 --zipf 0.7 --dispatch onehot)
[ -n "$a" ] && [ "$a" = "$b" ]
result "onehot has the loss of index: $a, $b" $?

loss --k 3 --exact > /dev/null
grep -q '"k": 3.0[,0]' "$tmp/seen"
result "--exact: k to the token" $?
"$py" dev/peer_torch.py --device cpu --config tiny --steps 1 --warmup 0 --threads 1 --k 1.5 --json > "$tmp/seen" 2>&1
grep -q '"B": 8, "T": 64, "C": 128, "L": 4, "NH": 4, "V": 256, "E": 8.*"threads": 1,.*"config": "tiny"' "$tmp/seen"
result "a configuration by its name" $?

# The flat AdamW is AdamW: 20 steps of a small net beside PyTorch's own, clipped at a norm that most gradients exceed
cat > "$tmp/flat.py" <<'END'
import sys, torch
sys.path.insert(0, "dev")
import peer_torch as peer
peer.FlatAdamW.BLOCK = 7        # several blocks, the last one short
torch.manual_seed(1)
nets = [torch.nn.Sequential(torch.nn.Linear(5, 9), torch.nn.Tanh(), torch.nn.Linear(9, 3)).double() for _ in range(2)]
nets[1].load_state_dict(nets[0].state_dict())
both = [peer.FlatAdamW(nets[0], 0.01), peer.TorchAdamW(nets[1], 0.01, False)]
start = [p.detach().clone() for p in nets[0].parameters()]
for i in range(20):
    x = torch.randn(8, 5, dtype=torch.float64)
    for net, optimizer in zip(nets, both):
        (net(x) ** 2).sum().backward()
        optimizer.clip(1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
moved = max(float((p - s).abs().max()) for p, s in zip(nets[0].parameters(), start))
error = max(float((p - q).abs().max()) for p, q in zip(nets[0].parameters(), nets[1].parameters()))
print("moved %.3g, differs by %.3g" % (moved, error))
sys.exit(not (moved > 0.1 and error < 1e-12))
END
"$py" "$tmp/flat.py" > "$tmp/seen" 2>&1
result "the flat AdamW is AdamW" $?

refuses() { # exit code, text; flags
    code=$1 want=$2
    shift 2
    # shellcheck disable=SC2086
    "$py" dev/peer_torch.py $tiny "$@" > "$tmp/out" 2> "$tmp/seen"
    got=$?
    [ $got -eq "$code" ] && [ "$(wc -l < "$tmp/seen")" -eq 2 ] && grep -qF -e "$want" "$tmp/seen" &&
        grep -q -e '---> HINT' "$tmp/seen"
    result "$* is refused (exit $got)" $?
}
refuses 2 "--k 9" --k 9
refuses 2 "out of range" --NH 3
refuses 2 "--moe-layers 5" --moe-layers 5
refuses 2 "--threads -1" --threads -1
refuses 1 "grouped_mm" --dispatch grouped_mm --dtype fp32
refuses 1 "no_such" --check no_such
# no data, no kernel: micro says what is missing and goes on
# shellcheck disable=SC2086
"$py" dev/peer_torch.py --micro $tiny > "$tmp/seen" 2>&1
result "micro" $?
[ "$(grep -c '^1 .* TFLOP/s$' "$tmp/seen")" -eq 15 ] && grep -q '^2 experts loop dW.*TFLOP/s$' "$tmp/seen" &&
    grep -q '^4 copy.*TB/s$' "$tmp/seen" && grep -q '^5 .*on a GPU only' "$tmp/seen"
result "micro answers all five questions" $?

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
