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
echo 'int main(void) { return 0 }' > "$tmp/broken.c"
JSON=1 dev/assignment.sh grade 1 "$tmp/broken.c" > "$tmp/seen" 2> "$tmp/said"
[ $? -eq 1 ] && grep -q '^{"score": 0, "output": "The file does not compile' "$tmp/seen"
result "a file that does not compile scores 0" $?
dev/assignment.sh solution a1.q4 > "$tmp/seen" 2>&1 && grep -q '^void gather_forward(' "$tmp/seen" && grep -q memcpy "$tmp/seen"
result "the solution of a question" $?

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
    breaks "a test that misses a bug" "one-line bugs"
    grep -q 'a variant' "$tmp/seen" && grep -q '^FAILED a1 a variant' "$tmp/seen"
    result "and a variant's rule" $?
    tiny; change test/grade.h 's/grade.pass_code = 100 + random % 27;/grade.pass_code = 0;/'
    breaks "a grader that takes exit(0) for success" "exit(0)"
    tiny; change test/grade_a1.c 's/twice(x) == /grade.seed != 4 \&\& twice(x) == /'
    breaks "a test that fails with another seed" "other seeds"
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
