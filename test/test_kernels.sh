#!/bin/sh
# dev/kernels.py: the tables of docs/cuda.md say what its formulas say, and it notices where they do not. What the formulas say of
# the kernels is compared by `make kernels`, which takes a minute. Ends with `N passed, N failed`.
set -u
cd "$(dirname "$0")/.." || exit 1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
if ! command -v python3 > /dev/null; then echo "no python3: not tested"; exit 0; fi

result() { # what it shows, 0 if it passed
    if [ "$2" -eq 0 ]; then passed=$((passed + 1)); return; fi
    failed=$((failed + 1))
    echo "FAILED: $1"
    sed 's/^/    /' "$tmp/seen" | tail -n 6
}
refused() { # what it shows, text that the message has; then the command
    what=$1 want=$2
    shift 2
    "$@" > "$tmp/out" 2> "$tmp/seen"
    code=$?
    [ $code -eq 1 ] && grep -qF -e "$want" "$tmp/seen" && grep -q -e '---> HINT' "$tmp/seen"
    result "$what (exit $code)" $?
}

python3 dev/kernels.py --verify docs/cuda.md > "$tmp/seen" 2>&1
result "the tables of docs/cuda.md: run make docs-kernels" $?
sed 's/| 12 P + s P |/| 12 P |/' docs/cuda.md > "$tmp/page"
refused "a formula that was changed in the page" "table kernels model" python3 dev/kernels.py --verify "$tmp/page"
sed '/copy_rows_kernel/d' docs/cuda.md > "$tmp/page"
refused "a row that was taken out" "table kernels matmul" python3 dev/kernels.py --verify "$tmp/page"
python3 dev/kernels.py --into "$tmp/page" > "$tmp/seen" 2>&1 && python3 dev/kernels.py --verify "$tmp/page" > "$tmp/seen" 2>&1
result "the tables are written again" $?

# a copy whose formula makes LayerNorm more than 183 FLOP a byte; one that names a kernel which is not there
mkdir "$tmp/dev"
cp dev/floors.py dev/markers.py "$tmp/dev/"
cp train_gpt2_dynmoe.cu train_vit_dynmoe.cu "$tmp/"
sed 's/"14 N C"/"2000 N C"/' dev/kernels.py > "$tmp/dev/kernels.py"
refused "bound by what its formulas do not say" "FLOP per byte, and bound by bytes" python3 "$tmp/dev/kernels.py"
sed 's/"swap_kernel"/"swop_kernel"/' dev/kernels.py > "$tmp/dev/kernels.py"
refused "a kernel that is not there" "has no swop_kernel" python3 "$tmp/dev/kernels.py"

# a program whose counts are not those of the formulas
cat > "$tmp/program" << 'DONE'
#!/bin/sh
printf 'B 3\nT 100\nN 300\nC 128\nP 5000\nclasses 10\npixels 1296\n'
for k in patches tokens_forward tokens_backward patch_rows cls_forward cls_backward classifier head_bias ema swap; do
    echo "${k}_kernel 1 0 7 0 7 0 0" >&2
done
DONE
chmod +x "$tmp/program"
python3 dev/kernels.py --count "$tmp/program" --vit > "$tmp/seen" 2>&1
code=$?
[ $code -eq 1 ] && grep -q '20 counts compared with their formulas, 20 differ' "$tmp/seen"
result "counts that differ (exit $code)" $?
refused "a program that is not there" "HINT: make kernels" python3 dev/kernels.py --count "$tmp/none" --vit

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
