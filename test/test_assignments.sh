#!/bin/sh
# Assignments: a student's folder works alone, and the check of assignments fails when one of its properties is broken. The latter
# with a tiny assignment of two functions, each of whose parts is broken on purpose once. --all: also what takes longer, half a
# minute; make assignments-check does that. Ends with `N passed, N failed`.
set -u
cd "$(dirname "$0")/.." || exit 1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
. test/result.sh
passed=0 failed=0
unset MAKEFLAGS MFLAGS MAKELEVEL ASSIGNMENTS ASSIGNMENT_TESTS VARIANT SEED JSON SHOW

# ---- assignment 1, as a student and a teacher see it

dev/assignment.sh check --quick a1 > "$tmp/seen" 2>&1
result "assignment 1 is sound" $?

VARIANT=1 dev/assignment.sh make 1 "$tmp/a1" > "$tmp/seen" 2>&1
result "a folder is made" $?
(cd "$tmp/a1" && echo ./*) > "$tmp/seen"
[ "$(cat "$tmp/seen")" = "./AGENTS.md ./Makefile ./a1.hints.txt ./a1.md ./a1.txt ./grade.h ./grade_a1.c ./languages.c \
./train_gpt2_dynmoe.c" ]
result "it holds what a student needs and nothing else" $?
alone() { env -i PATH="$PATH" make -s -C "$tmp/a1" "$@" > "$tmp/seen" 2>&1; }
alone grade OPT=-O0 && grep -q '^SCORE 0/48$' "$tmp/seen" && [ "$(grep -c 'not written yet$' "$tmp/seen")" = 7 ]
result "the grader runs there, without this project: 0 points, and every question says why" $?
json='{"name": "a1.q7", "score": 0, "max_score": 7, "status": "failed", "output": "not written yet"}'
alone grade OPT=-O0 JSON=1 && grep -q "$json" "$tmp/seen" && tail -n 1 "$tmp/seen" | grep -q '"score": 0}'
result "JSON in Gradescope's layout" $?
alone hint Q=a1.q3 && grep -q '^Hint a1.q3:' "$tmp/seen" && [ "$(grep -c '^Hint' "$tmp/seen")" = 1 ]
result "one hint, and only that" $?
grep -q 'one thing is different' "$tmp/a1/a1.md" && grep -q 'not divided by lengths' "$tmp/a1/train_gpt2_dynmoe.c"
result "the variant stands in the handout and in the starter" $?
dev/assignment.sh make 1 "$tmp/a1" > "$tmp/seen" 2>&1
[ $? -eq 2 ] && grep -q 'already there' "$tmp/seen"
result "a folder with work in it is not overwritten" $?
dev/assignment.sh grade 1 "$tmp/none.c" > "$tmp/seen" 2>&1
[ $? -eq 2 ] && grep -q 'there is no file' "$tmp/seen"
result "a file that is missing is said so" $?
dev/assignment.sh make 6 "$tmp/a6" > "$tmp/seen" 2>&1
[ $? -eq 2 ] && grep -q 'its handout is docs/assignments/a6.md' "$tmp/seen" && [ "$(wc -l < "$tmp/seen")" -eq 2 ] &&
    [ ! -e "$tmp/a6" ]
result "an assignment without a starter says where its handout is" $?
echo 'int main(void) { return 0 }' > "$tmp/broken.c"
JSON=1 dev/assignment.sh grade 1 "$tmp/broken.c" > "$tmp/seen" 2> "$tmp/said"
[ $? -eq 1 ] && grep -q '^{"score": 0, "output": "The file does not compile' "$tmp/seen"
result "a file that does not compile scores 0" $?
dev/assignment.sh solution a1.q4 > "$tmp/seen" 2>&1 && grep -q '^void gather_forward(' "$tmp/seen" && grep -q memcpy "$tmp/seen"
result "the solution of a question" $?

# ---- the leaderboard of assignment 6: the log of a real run, then edited

entry() { # name, sed command: the real log, edited, as the entry NAME
    mkdir -p "$tmp/$1"
    sed "$2" "$tmp/real/log.jsonl" > "$tmp/$1/log.jsonl"
}
refuses() { # what, sed command, what it says
    entry bad "$2"
    ! cmp -s "$tmp/bad/log.jsonl" "$tmp/real/log.jsonl" || { result "$1: the edit changes nothing" 1; return; }
    dev/leaderboard.sh ${4:+--seconds "$4"} bad="$tmp/bad" > "$tmp/seen" 2> "$tmp/said"
    [ $? -eq 1 ] && [ ! -s "$tmp/seen" ] && grep -q "^leaderboard: refused bad: $tmp/bad/log.jsonl:[0-9]*: $3" "$tmp/said" &&
        sed -n 2p "$tmp/said" | grep -q '^---> HINT: .' && [ "$(wc -l < "$tmp/said")" -eq 2 ]
    result "leaderboard refuses: $1" $?
}
./train_gpt2_dynmoe --data docs/math.md --steps 6 --batch 2 --context 16 --channels 16 --heads 2 --layers 2 --val-tokens 1024 \
    --log-every 2 --out "$tmp/run" > /dev/null 2>&1
mkdir -p "$tmp/real" # of a committed source, whatever it is here, and of 2 seconds, however long it took
sed 's/"commit":"[^"]*"/"commit":"abc1234"/; s/"ms":[0-9.]*/"ms":100.5/; s/"seconds":[0-9.]*/"seconds":2.00/' \
    "$tmp/run/log.jsonl" > "$tmp/real/log.jsonl"
better='s/"bits":[0-9.]*/"bits":1.442695/; s/"loss":[0-9.]*/"loss":1.000000/; s/"best":[0-9.]*/"best":1.000000/'
entry better "$better"
dev/leaderboard.sh real="$tmp/real" better="$tmp/better" > "$tmp/seen" 2>&1 &&
    [ "$(cut -f 7 "$tmp/seen" | tail -n 2 | tr '\n' ' ')" = "better real " ] &&
    [ "$(sed -n 3p "$tmp/seen" | cut -f 1-6)" = "$(printf '1.4427\t2.0\t6\ttop-any\tabc1234\t-')" ]
result "leaderboard: two entries, the better one first" $?
entry dirty 's/abc1234/abc1234-dirty/'
echo 'diff --git a/train_gpt2_dynmoe.c b/train_gpt2_dynmoe.c' > "$tmp/dirty/source.diff"
dev/leaderboard.sh dirty="$tmp/dirty" > "$tmp/seen" 2>&1 && tail -n 1 "$tmp/seen" | cut -f 6 | grep -qx '[0-9]*'
result "leaderboard: a changed source with its diff" $?
echo 'a change' > "$tmp/dirty/source.diff"
dev/leaderboard.sh dirty="$tmp/dirty" > "$tmp/seen" 2>&1
[ $? -eq 1 ] && grep -q 'without source.diff' "$tmp/seen"
result "leaderboard refuses: a source.diff that is none" $?
refuses "more than the allowed seconds" 's/"seconds":2.00/"seconds":2.01/' "2.01 seconds, allowed are 2" 2
refuses "edited bits" '$!s/"bits":[0-9]*/"bits":1/' "a loss of "
refuses "edited bits and losses, at the last step" '/^{"type":"val","step":6/{ s/"bits":[0-9.]*/"bits":1.442695/
    s/"loss":[0-9.]*/"loss":1.000000/; }' "the best loss is "
refuses "edited seconds" 's/"seconds":2.00/"seconds":0.40/' "its steps take 0.603 seconds"
refuses "edited steps" 's/^{"type":"end","step":6/{"type":"end","step":5/' "steps end at 6, the run at 5, planned were 6"
refuses "a step left out at the end" '/^{"type":"step","step":6/d' "steps end at 4"
refuses "steps in another order" '/^{"type":"step","step":2,/s/"step":2/"step":5/' "step 4 comes after step 5"
refuses "no validation at the end" '/^{"type":"val","step":6/d' "no validation after the last step"
refuses "no end" '/^{"type":"end"/d' "the run has not ended"
refuses "a stopped run" 's/^{"type":"end".*/{"type":"stop","step":6}/' "the run was stopped"
refuses "a resumed run" 's|"resume":""|"resume":"out/model.safetensors"|' "the run was resumed"
refuses "a run that began with a trained model" 's|"init":""|"init":"old.safetensors"|' "the run began with the model old"
refuses "two runs in one log" '1{h;}; 3{G;}' "a second run"
refuses "a line that is no record" '3s/}$//' "not a record of a log"
refuses "an empty log" 'd' "an empty log"
refuses "a changed source without its diff" 's/abc1234/abc1234-dirty/' "changed source (commit abc1234-dirty) without source.diff"
entry other 's/"machine":"[^"]*"/"machine":"another one"/'
dev/leaderboard.sh real="$tmp/real" other="$tmp/other" > "$tmp/seen" 2>&1
[ $? -eq 1 ] && grep -q '^leaderboard: the entries differ in machine' "$tmp/seen" && [ "$(wc -l < "$tmp/seen")" -eq 2 ]
result "leaderboard refuses: entries of two machines" $?
entry bad 1d
dev/leaderboard.sh real="$tmp/real" bad="$tmp/bad" > "$tmp/seen" 2> /dev/null
[ $? -eq 1 ] && tail -n 1 "$tmp/seen" | grep -q 'real$'
result "leaderboard: one bad entry does not hide the good ones" $?

# ---- a tiny assignment

tiny() { # makes it anew in $tmp/tiny
    rm -rf "$tmp/tiny"
    mkdir -p "$tmp/tiny/docs" "$tmp/tiny/test/wrong" "$tmp/tiny/test/variants"
    cp -R docs/assignments/student "$tmp/tiny/docs/"
    cp test/grade.h "$tmp/tiny/test/"
    cat > "$tmp/tiny/tiny.c" << 'END'
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int twice(int x) {
    // returns 2 x
    return 2 * x;
}

int twice_sum(int x,
              int y) {
    // returns 2 x + 2 y
    int sum = twice(x);
    return sum + twice(y);
}

int three(void) { return 3; } // always

#ifndef TESTING
int main(void) { printf("%d\n", twice_sum(three(), 4)); }
#endif
END
    cat > "$tmp/tiny/docs/a1.txt" << END
source $tmp/tiny/tiny.c
a1.q1 twice 3
a1.q2 twice_sum+three 5 after a1.q1
END
    printf '# Tiny\nPoints: 8 by the grader\n<!-- variant -->\n### a1.q1 twice (3 points)\n### a1.q2 the rest (5 points)\n' \
        > "$tmp/tiny/docs/a1.md"
    printf 'Hint a1.q1: x + x\n\nHint a1.q2: add\n' > "$tmp/tiny/docs/a1.hints.txt"
    cat > "$tmp/tiny/test/grade_a1.c" << 'END'
#define GRADE_SECONDS 1
#include "grade.h"
#define TESTING
#include SRC
GRADE(q1) {
    int x = grade_int(1, 9);
    GRADE_REQUIRE(twice(x) == (VARIANT == 1 ? 3 : 2) * x, "wrong");
    GRADE_PASS();
}
GRADE(q2) { GRADE_REQUIRE(twice_sum(2, 5) == 7 * twice(1) && three() == 3, "wrong"); GRADE_PASS(); }
int main(int argc, char** argv) {
    grade_begin(argc, argv);
    grade_test("a1.q1", q1);
    grade_test("a1.q2", q2);
    return grade_end();
}
END
    printf '# returns x\n/^int twice(/,/^}/ s~2 \\* x;~x;~\n' > "$tmp/tiny/test/wrong/twice_once.sed"
    printf '# changes a1.q1\n# Not twice but thrice.\n/^int twice(/,/^}/ { s~returns 2 x~returns 3 x~; s~2 \\* x;~3 * x;~; }\n' \
        > "$tmp/tiny/test/variants/a1.1.sed"
}
change() { # file in $tmp/tiny, sed command
    sed "$2" "$tmp/tiny/$1" > "$tmp/changed" && ! cmp -s "$tmp/changed" "$tmp/tiny/$1" && cat "$tmp/changed" > "$tmp/tiny/$1"
}
check() { ASSIGNMENTS=$tmp/tiny/docs ASSIGNMENT_TESTS=$tmp/tiny/test dev/assignment.sh check "$@" a1 > "$tmp/seen" 2>&1; }
breaks() { # what was broken, the property that must fail; [--quick]
    if check ${3:+"$3"}; then result "$1: the check did not see it" 1; return; fi
    grep -q "^FAILED a1 .*$2" "$tmp/seen"
    result "$1: the check names the property" $?
}

tiny; change docs/a1.txt 's/twice 3/twice 4/'
breaks "points that do not add up" "table, handout and hints" --quick
tiny; change docs/a1.hints.txt '/a1.q2/d'
breaks "a question without a hint" "table, handout and hints" --quick
tiny; change tiny.c 's/^int three/static int four;\nint three/'
breaks "a starter with a warning" "compiles without a warning" --quick
tiny; change tiny.c 's/printf.*4));/return 0;/'
breaks "a starter that meets no hole" "first hole" --quick
tiny; change test/grade_a1.c 's/^    GRADE_REQUIRE.*//'
breaks "a test that asks nothing" "starter scores 0" --quick
tiny; change tiny.c 's/return 2 \* x/return 2 * x + 1/'
breaks "a wrong reference" "reference scores full" --quick
tiny; change docs/a1.txt 's/ after a1.q1//'
breaks "a dependency that is not declared" "emptied alone" --quick
tiny; change tiny.c 's/int twice(/int double_of(/'
! check --quick && grep -q 'no function twice (a1.q1)' "$tmp/seen"
result "a function that was renamed" $?
if [ "${1-}" = --all ]; then
    tiny
    check && [ "$(grep -c '^ok' "$tmp/seen")" = 10 ] && [ "$(grep -c '^FAILED' "$tmp/seen")" = 0 ]
    result "a sound assignment passes, ten properties" $?

    tiny; change test/grade_a1.c 's/== (VARIANT == 1 ? 3 : 2) \* x/% x == 0/'
    breaks "a test that misses a bug" "one-line bug"
    grep -q 'a variant' "$tmp/seen" && grep -q '^FAILED a1 a variant' "$tmp/seen"
    result "and a variant's rule" $?
    tiny; change test/grade.h 's/grade.pass_code = 100 + random % 27;/grade.pass_code = 0;/'
    breaks "a grader that takes exit(0) for success" "exit(0)"
    tiny; change test/grade_a1.c 's/twice(x) == /grade.seed != 4 \&\& twice(x) == /'
    breaks "a test that fails with another seed" "other seeds"
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
