#!/bin/sh
# Proves that every guard of dev/check_style.sh catches what it should. A small project is made up in a temporary folder,
# clean at first; each test plants one violation and wants exactly that one to be reported, with its place.
# shellcheck disable=SC2016,SC2094 # backticks in single quotes are Markdown; sizes are counted before anything is written
set -u
cd "$(dirname "$0")/.." || exit 1
script=$PWD/dev/check_style.sh
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
export GIT_DIR="$tmp/none" # the made-up project is no clone, wherever the temporary folder lies

fresh() {
    rm -rf "$tmp/project"
    mkdir -p "$tmp/project/dev" "$tmp/project/docs" "$tmp/project/test/fixtures"
    cd "$tmp/project" || exit 1
    cp "$script" dev/
    cat > train_gpt2_dynmoe.c <<'END'
#include <stdio.h>
// twice (N): twice what comes in
void twice(float* out, const float* in,
           int N) {
    for (int i = 0; i < N; i++) { out[i] = 2 * in[i]; }
}
static int one(void) { return 1; }
int main(void) { return one(); }
// Here the algorithm ends
END
    sed 's/return one/return 2 * one/' train_gpt2_dynmoe.c > train_gpt2_dynmoe.cu
    printf '#include <math.h>\nint main(void) { return 0; }\n' > train_vit_dynmoe.cu
    printf '# twins\n%s\n%s\n' 'twice train_gpt2_dynmoe.c train_gpt2_dynmoe.cu # same text' \
        'one train_gpt2_dynmoe.c train_gpt2_dynmoe.cu' > dev/twins.txt
    printf '#!/bin/sh\necho "  -n, --steps N  how long"\necho "  -h, --help     this"\n' > train_gpt2_dynmoe
    chmod +x train_gpt2_dynmoe
    printf '# Doubling\nSee `train_gpt2_dynmoe.c:3 twice` and `train_gpt2_dynmoe.c:8 main`.\n' > README.md
    printf '# never -ff%s here\nall:\n\tcc -O3 x.c\n' ast-math > Makefile
    head -c 1000 /dev/zero > test/fixtures/small.safetensors
    ./dev/check_style.sh --write-flags > /dev/null
}

result() { # name, 0 if it passed; prints what was seen where it did not
    if [ "$2" -eq 0 ]; then passed=$((passed + 1)); return; fi
    failed=$((failed + 1))
    echo "FAILED $1"
    sed 's/^/    /' "$tmp/seen"
}

# $1: name of the test, $2: how the one violation begins, $3: a word from the advice in it
catches() {
    status=0
    ./dev/check_style.sh > "$tmp/seen" 2>&1 || status=$?
    bad=0
    [ $status -eq 1 ] || bad=1
    [ "$(grep -c : "$tmp/seen")" -eq 2 ] || bad=1 # the violation, and the last line
    case $(head -n 1 "$tmp/seen") in "$2"*"$3"*) ;; *) bad=1 ;; esac
    result "$1" $bad
    fresh
}

accepts() {
    status=0
    ./dev/check_style.sh > "$tmp/seen" 2>&1 || status=$?
    result "$1" $status
    fresh
}

fresh
accepts "clean project"

# own includes
printf '# include "common.h"\n' >> train_vit_dynmoe.cu
catches "own include" "train_vit_dynmoe.cu:3: includes a file of ours" "move the text in"
printf '#include "common.h"\n' > test/test_x.c
accepts "a test may include"

# budgets and line length
for lines in 1431 1432; do # and 9 that are there
    awk -v n=$lines '/algorithm ends/ { for (i = 0; i < n; i++) print "// filler" } { print }' train_gpt2_dynmoe.c > longer
    mv longer train_gpt2_dynmoe.c
    if [ $lines = 1431 ]; then accepts "the algorithm ends at line 1440"; fresh
    else catches "the algorithm ends later" train_gpt2_dynmoe.c:1440 "shorten it"; fi
done
for p in train_gpt2_dynmoe.c:2900 train_gpt2_dynmoe.cu:4240 train_vit_dynmoe.cu:4760; do
    f=${p%:*} budget=${p#*:}
    awk -v n="$(($(wc -l < "$f")))" -v budget="$budget" 'BEGIN { for (; n < budget; n++) print "// filler" }' >> "$f"
    cp "$f" "$tmp/full"
    accepts "budget of $f met"
    cp "$tmp/full" "$f"
    echo "// one more" >> "$f"
    catches "budget of $f broken" "$f:$((budget + 1)): over its budget of $budget" "say why"
done
awk 'BEGIN { printf "//"; for (i = 2; i < 132; i++) printf "x"; print "" }' >> train_gpt2_dynmoe.c
accepts "line of 132"
awk 'BEGIN { printf "//"; for (i = 2; i < 133; i++) printf "x"; print "" }' >> train_gpt2_dynmoe.c
catches "line of 133" "train_gpt2_dynmoe.c:10: 133 columns" "break the line"

# twins
sed -i.tmp 's/out\[i\] = 2/out[i] = 3/' train_gpt2_dynmoe.cu
catches "twin differs" "train_gpt2_dynmoe.c:5: twin twice differs from train_gpt2_dynmoe.cu:5" "make both the same"
sed -i.tmp 's/return 1/return 3/' train_gpt2_dynmoe.cu
catches "one-line twin differs" "train_gpt2_dynmoe.c:7: twin one differs from train_gpt2_dynmoe.cu:7" "make both the same"
awk '{ print } /out\[i\]/ { print "    out[0] = 0;" }' train_gpt2_dynmoe.c > train_gpt2_dynmoe.cu
catches "twin is longer" "train_gpt2_dynmoe.c:6: twin twice differs from train_gpt2_dynmoe.cu:6" "make both the same"
sed -i.tmp 's/one(void)/uno(void)/' train_gpt2_dynmoe.cu
catches "twin renamed" "train_gpt2_dynmoe.cu:1: twin one not found" "write it"
echo "twice train_gpt2_dynmoe.c train_gone.cu" >> dev/twins.txt
catches "twin in no file" "dev/twins.txt:1: twin twice: there is no file train_gone.cu" "mend"
echo "twice train_gpt2_dynmoe.c" >> dev/twins.txt
catches "twin with one file" "dev/twins.txt:1: 'twice train_gpt2_dynmoe.c" "function fileA fileB"
sed -i.tmp 's/return 2/return 3/' train_gpt2_dynmoe.cu
accepts "what is no twin may differ"
# in the vision program GPT2 is ViT and gpt2_ is vit_, and nothing else
for count in vit_count vit_counts; do
    printf 'int gpt2_size(const GPT2* m) {\n    return gpt2_count(m);\n}\n' >> train_gpt2_dynmoe.cu
    printf 'int vit_size(const ViT* m) {\n    return %s(m);\n}\n' $count >> train_vit_dynmoe.cu
    echo "gpt2_size train_gpt2_dynmoe.cu train_vit_dynmoe.cu" >> dev/twins.txt
    if [ $count = vit_count ]; then accepts "a twin that names a ViT"; continue; fi
    catches "a twin that names a ViT differs" \
        "train_gpt2_dynmoe.cu:11: twin gpt2_size differs from train_vit_dynmoe.cu:4" "make both the same"
done
# a macro of two lines and a struct, alike in both; then one line of each differs
for change in none 's/(x) + 1/(x) + 2/' 's/int n;/long n;/'; do
    for f in train_gpt2_dynmoe.c train_gpt2_dynmoe.cu; do
        printf '#define PLUS(x) \\\n    ((x) + 1)\ntypedef struct {\n    int n;\n} Count;\n' >> "$f"
    done
    for name in PLUS Count; do echo "$name train_gpt2_dynmoe.c train_gpt2_dynmoe.cu" >> dev/twins.txt; done
    [ "$change" = none ] || sed -i.tmp "$change" train_gpt2_dynmoe.cu
    case $change in
        none) accepts "twins of a macro and of a struct"; fresh ;;
        *'(x)'*) catches "twin macro differs" "train_gpt2_dynmoe.c:11: twin PLUS differs" "make both the same" ;;
        *) catches "twin struct differs" "train_gpt2_dynmoe.c:13: twin Count differs" "make both the same" ;;
    esac
done

# links
printf 'one\ntwo `train_gpt2_dynmoe.c:4 twice`\n' > docs/a.md
catches "link beside its name" "docs/a.md:2: twice is not at train_gpt2_dynmoe.c:4 but at line 3" "make docs-links"
printf '`train_gpt2_dynmoe.c:3 twic`\n' > docs/a.md
catches "link to half a name" "docs/a.md:1: link to twic in train_gpt2_dynmoe.c" "mend"
printf '`train_gpt2_dynmoe.c:99 twice`\n' > docs/a.md
catches "link past the end" "docs/a.md:1: twice is not at train_gpt2_dynmoe.c:99 but at line 3" "make docs-links"
printf 'see `train_gone.c:3 twice`\n' > docs/a.md
catches "link to no file" "docs/a.md:1: link to train_gone.c:3" "no such file"
printf 'see `train_gpt2_dynmoe.c:3`\n' > docs/a.md
catches "link without a name" "docs/a.md:1: link train_gpt2_dynmoe.c:3 names nothing" "write"
printf '```\nan error at `train_gpt2_dynmoe.c:99 twice`\n```\nand `12:30` is a time\n' > docs/a.md
accepts "no links in fences"
for f in train_gpt2_dynmoe.c train_gpt2_dynmoe.cu; do
    awk 'NR == 1 { print ""; print "" } { print }' $f > "$tmp/later"
    cp "$tmp/later" $f
done
./dev/check_style.sh --write-links > "$tmp/seen"
if grep -q '`train_gpt2_dynmoe.c:5 twice` and `train_gpt2_dynmoe.c:10 main`' README.md; then good=0; else good=1; fi
result "stale links are rewritten" $good
accepts "and then they are right"

# equations: two in the made-up project, both in twice
numbered() {
    for f in train_gpt2_dynmoe.c train_gpt2_dynmoe.cu; do
        sed -i.tmp 's|out\[i\] = 2.*|& // (M1)|; s|int N) {|& // (M2)|' $f
    done
    printf '# Doubling\n```\nout = 2 in   (M1)\nN            (M2)\n```\n' > docs/math.md
    echo '- (M1) (M2) in `train_gpt2_dynmoe.c:3 twice`' >> docs/math.md
}
numbered
accepts "numbered equations"
numbered
echo "// (M3)" >> train_vit_dynmoe.cu
catches "an equation that is not there" "train_vit_dynmoe.cu:3: (M3) is no equation of docs/math.md" "define it"
numbered
echo "See (M12)." >> docs/math.md
catches "the page speaks of an equation that is not there" "docs/math.md:7: (M12) is no equation" "define it"
echo "// (M1)" >> train_gpt2_dynmoe.c
catches "an equation and no page" "train_gpt2_dynmoe.c:10: (M1) is no equation of docs/math.md" "define it"
numbered
for f in train_gpt2_dynmoe.c train_gpt2_dynmoe.cu; do sed -i.tmp 's| // (M2)||' $f; done
echo "// (M2)" >> train_gpt2_dynmoe.cu
catches "an equation without code" "docs/math.md:6: (M2) does not stand in twice of train_gpt2_dynmoe.c" "put it"
numbered
sed -i.tmp '/^twice/d' dev/twins.txt
sed -i.tmp 's| // (M2)||' train_gpt2_dynmoe.cu
catches "an equation without CUDA code" "docs/math.md:4: (M2) is not in train_gpt2_dynmoe.cu" "put it"
numbered
printf 'int thrice(int x) {\n    return 3 * x; // (M1)\n}\n' >> train_gpt2_dynmoe.c
catches "an equation in another function too" \
    "train_gpt2_dynmoe.c:11: (M1) stands in a function that docs/math.md does not name" "mend"
numbered
sed -i.tmp 's/N            (M2)/N            (M1)/; s/^- (M1) (M2)/- (M1)/' docs/math.md
for f in train_gpt2_dynmoe.c train_gpt2_dynmoe.cu; do sed -i.tmp 's| // (M2)||' $f; done
catches "an equation twice" "docs/math.md:4: (M1) where (M2) should stand" "in order"
numbered
for f in docs/math.md train_gpt2_dynmoe.c train_gpt2_dynmoe.cu; do sed -i.tmp 's/(M2)/(M3)/' $f; done
catches "a hole in the numbers" "docs/math.md:4: (M3) where (M2) should stand" "in order"
numbered
sed -i.tmp 's/^- (M1) (M2)/- (M1)/' docs/math.md
catches "an equation that no line places" "docs/math.md:4: (M2) stands where?" "write under it"

# flags
sed -i.tmp 's/how long/how many/' train_gpt2_dynmoe
catches "help changed" "docs/flags.md:8: --help says here:   -n, --steps N  how many" "make docs-flags"
echo 'echo "  -x             new"' >> train_gpt2_dynmoe
catches "help is longer" "docs/flags.md:10: --help says here:   -x" "make docs-flags"
sed -i.tmp '$d' train_gpt2_dynmoe
catches "help is shorter" "docs/flags.md:9: --help says here: (nothing)" "make docs-flags"
rm docs/flags.md
catches "no docs of the flags" "docs/flags.md:1: nothing about ./train_gpt2_dynmoe --help" "make docs-flags"
echo 'exit 1' >> train_gpt2_dynmoe
catches "help fails" "train_gpt2_dynmoe:1: --help fails" ""
echo 'echo "  -x             new"' >> train_gpt2_dynmoe
printf '\nMore about it.\n' >> docs/flags.md
./dev/check_style.sh --write-flags > "$tmp/seen"
if grep -q 'More about it' docs/flags.md; then good=0; else good=1; fi
result "the text around the flags is kept" $good
accepts "flags are rewritten"

# bytes and words
printf 'caf\303\251\n' >> README.md
catches "not ASCII" "README.md:3: a byte that is not plain ASCII" "write it in ASCII"
printf 'line\r\n' >> README.md
catches "carriage return" "README.md:3: a byte that is not plain ASCII" "carriage return"
printf '\000\377\n' > docs/picture.png
accepts "binary files may hold any byte"
for word in work farm; do
    printf 'look in /%s/data\n' $word > docs/a.md
    catches "path of a machine: $word" "docs/a.md:1: a path of one machine" "inside of the project"
done
for flag in ffast-math Ofast; do
    printf 'all:\n\tcc -%s x.c\n' $flag > Makefile
    catches "-$flag in the Makefile" "Makefile:2: fast-math" "take the flag out"
    printf '#!/bin/sh\n# text\ncc -%s x.c\n' $flag > dev/build.sh
    catches "-$flag in a script" "dev/build.sh:3: fast-math" "take the flag out"
done

# fixtures
mkdir -p test/fixtures_vit
head -c 1571864 /dev/zero > test/fixtures_vit/large.safetensors
accepts "fixtures of 1.5 MiB"
mkdir -p test/fixtures_vit
head -c 1571865 /dev/zero > test/fixtures_vit/large.safetensors
catches "fixtures over 1.5 MiB" "test/fixtures_vit/large.safetensors:1: all fixtures take 1572865 bytes" "smaller"

# the kernels of the CUDA programs and docs/cuda.md
with_kernels() {
    printf '__global__ void add_kernel(float* x) { x[0]++; }\n' >> train_gpt2_dynmoe.cu
    printf '# Kernels\n`add_kernel` adds.\n' > docs/cuda.md
}
with_kernels
accepts "every kernel is named"
with_kernels
echo 'Nothing.' > docs/cuda.md
catches "a kernel that docs/cuda.md does not name" "train_gpt2_dynmoe.cu:9: kernel add_kernel is not in docs/cuda.md" "say there"
with_kernels
echo 'And `sub_kernel` too.' >> docs/cuda.md
catches "a kernel that is not there" "docs/cuda.md:3: no CUDA program has the kernel sub_kernel" "remove"

# in a clone, git says which files are the project's
if command -v git > /dev/null; then
    unset GIT_DIR
    git init -q .
    echo ignored.txt > .gitignore
    printf 'caf\303\251\n' > ignored.txt
    accepts "ignored files are left alone"
    git init -q .
    printf 'caf\303\251\n' > new.txt
    catches "new files are looked at" "new.txt:1: a byte that is not plain ASCII" "ASCII"
fi

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
