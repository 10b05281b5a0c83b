#!/bin/sh
# Assignments: made from the programs, graded, and checked. `make assignment`, `make grade` .. call this script.
#   dev/assignment.sh make A OUT       what a student gets, into the new folder OUT
#   dev/assignment.sh course OUT       all assignments
#   dev/assignment.sh grade A SRC      scores a student's file; SEED=n, JSON=1, SHOW=1
#   dev/assignment.sh hint a1.q2       the hint for a question
#   dev/assignment.sh solution a1.q2   the reference functions of a question
#   dev/assignment.sh check [--quick] [A...]   are the assignments sound? One line a property, exit 1 if one fails
# VARIANT=n picks for each assignment one of its small changes, test/variants/aA.K.sed; 0, the default, none.
# An assignment is: docs/assignments/aA.txt (points), aA.md (handout), aA.hints.txt, test/grade_aA.c or .cu (tests). Lines of
# aA.txt: `source FILE`, `run ARGUMENTS` (reach the first hole), `needs FILE...` (go along; folders with what is in them),
# `spares MUTANT...` (bugs that no test of these functions can see), `question function[+function] points [after question...]`;
# function - is a question without a hole of its own. An assignment in CUDA gets the folder cuda_on_cpu, to do without a GPU.
set -eu
cd "$(dirname "$0")/.."
docs=${ASSIGNMENTS:-docs/assignments}   # other places, when the check itself is tested
tests=${ASSIGNMENT_TESTS:-test}
unset MAKEFLAGS MFLAGS MAKELEVEL

fail() { # exit code, what is wrong, what to do
    echo "assignment: $2" >&2
    echo "---> HINT: $3" >&2
    exit "$1"
}

# ---- the parts of an assignment ----------------------------------------------------------------------------------------

table_of() { # a1 -> its table
    if [ ! -f "$docs/$1.txt" ] && [ -f "$docs/$1.md" ]; then
        fail 2 "assignment $1 has no starter and no grader: it is done with the whole project" "its handout is $docs/$1.md"
    fi
    [ -f "$docs/$1.txt" ] || fail 2 "there is no assignment '$1'" "these are there: $(assignments | tr '\n' ' ')"
    echo "$docs/$1.txt"
}
assignments() { find "$docs" -name 'a[0-9]*.txt' ! -name '*.hints.txt' | sed 's|.*/||; s/\.txt$//' | sort; }
line_of() { awk -v key="$2" '$1 == key { $1 = ""; print }' "$docs/$1.txt"; } # a1, key: what its table says there
source_of() { line_of "$1" source | tr -d ' '; }
file_of() { basename "$(source_of "$1")"; } # what a student's file is called
holes_of() { awk '$1 ~ /^a[0-9]+\.q[0-9]+$/ && $2 != "-" { print $1 }' "$docs/$1.txt"; }
questions_of() { awk '$1 ~ /^a[0-9]+\.q[0-9]+$/ { print $1 }' "$docs/$1.txt"; }
variants_of() { find "$tests/variants" -name "$1.[0-9]*.sed" | wc -l | tr -d ' '; } # how many

variant_of() { # a1: the number of its variant in this course
    case ${VARIANT:-0} in *[!0-9]*) fail 2 "VARIANT=$VARIANT is not a number" "VARIANT=0 is the program as it is" ;; esac
    n=$(variants_of "$1")
    if [ "${VARIANT:-0}" -eq 0 ] || [ "$n" -eq 0 ]; then echo 0; else echo $(((VARIANT - 1) % n + 1)); fi
}

program_of() { # a1, K: the program with that variant in it, to stdout
    if [ "$2" -eq 0 ]; then cat "$(source_of "$1")"; else sed -f "$tests/variants/$1.$2.sed" "$(source_of "$1")"; fi
}

handout() { # a1, K: the handout; what the variant changes stands where the line <!-- variant --> is
    if [ "$2" -eq 0 ]; then grep -v '^<!-- variant -->$' "$docs/$1.md"; return; fi
    awk -v changes="$tests/variants/$1.$2.sed" '
        $0 != "<!-- variant -->" { print; next }
        { printf "**In this course one thing is different.**"
          while ((getline line < changes) > 0) {
              if (line ~ /^# / && line !~ /^# changes /) { sub(/^#/, "", line); printf "%s", line } }
          print "\nThe comments in the starter say it, too; where this handout or a hint says otherwise, they are right." }' \
        "$docs/$1.md"
}

lay_out() { # a1, folder, K: what a student gets
    file=$(file_of "$1")
    mkdir -p "$2"
    program_of "$1" "$3" > "$2/$file"
    awk -f dev/starter.awk "$docs/$1.txt" "$2/$file" > "$2/starter.tmp" || exit 1
    sed 's|dev/cuda_on_cpu/|cuda_on_cpu/|g; s|dev/cuda/||g' "$2/starter.tmp" > "$2/$file" # paths as in the folder
    rm "$2/starter.tmp"
    cp "$tests"/grade_"$1".c* "$tests/grade.h" "$docs/$1.txt" "$docs/$1.hints.txt" "$docs/student/AGENTS.md" "$2/"
    handout "$1" "$3" > "$2/$1.md"
    # shellcheck disable=SC2046 # names
    for f in $(line_of "$1" needs); do cp -R "$f" "$2/"; done
    case $file in *.cu)
        mkdir "$2/cuda_on_cpu"
        cp -R dev/cuda_on_cpu/cudacpu[-.]* dev/cuda_on_cpu/[!c]*.cpp dev/cuda_on_cpu/check.cpp dev/cuda_on_cpu/*.h \
            dev/cuda_on_cpu/check_ignore.txt dev/cuda_on_cpu/include docs/cuda_on_cpu.md "$2/cuda_on_cpu/"
        rm -rf "$2/cuda_on_cpu/cudacpu.tmp" ;;
    esac
    sed "s/@A@/${1#a}/g; s/@SOURCE@/$file/g; s/@PROGRAM@/${file%.*}/g; s/@VARIANT@/$3/g" \
        "$docs/student/Makefile.${file##*.}" > "$2/Makefile"
}

write_out() { # a1, folder: the same, appears whole or not at all
    table_of "$1" > /dev/null
    if [ -e "$2" ] && ! rmdir "$2" 2> /dev/null; then
        fail 2 "$2 is already there" "OUT is a new folder, so that nobody's work is lost"
    fi
    rm -rf "$2.tmp"
    lay_out "$1" "$2.tmp" "$(variant_of "$1")"
    mv "$2.tmp" "$2"
    echo "wrote $2: begin with $2/$1.md"
}

grade() { # a1, the student's file
    table_of "$1" > /dev/null
    [ -f "$2" ] || fail 2 "there is no file '$2'" "SRC is the file in which the student filled the holes"
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    lay_out "$1" "$dir/a" "$(variant_of "$1")"
    cp "$2" "$dir/a/$(file_of "$1")"
    if make -s -C "$dir/a" grade SRC="$(file_of "$1")" SEED="${SEED:-1}" JSON="${JSON:-}" SHOW="${SHOW:-}" CUDA="${CUDA:-}" \
        2> "$dir/said" > "$dir/score"; then
        cat "$dir/said" >&2
        cat "$dir/score"
        return
    fi
    cat "$dir/said" >&2
    [ -z "${JSON:-}" ] || echo '{"score": 0, "output": "The file does not compile, or the grader could not run."}'
    exit 1
}

hint() { # a1.q2
    table_of "${1%.*}" > /dev/null
    awk -v q="Hint $1:" '/^Hint / { on = index($0, q) == 1; found += on } on { print } END { exit !found }' \
        "$docs/${1%.*}.hints.txt" || fail 2 "no hint for '$1'" "questions: $(questions_of "${1%.*}" | tr '\n' ' ')"
}

solution() { # a1.q2
    table_of "${1%.*}" > /dev/null
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    program_of "${1%.*}" "$(variant_of "${1%.*}")" > "$dir/$(file_of "${1%.*}")"
    awk -v solution="$1" -f dev/starter.awk "$docs/${1%.*}.txt" "$dir/$(file_of "${1%.*}")"
}

# ---- check -------------------------------------------------------------------------------------------------------------

bad=0
untested() { echo "NOT TESTED $1 $2: $3"; } # a1, what, why
property() { # a1, what it shows, a file that holds one line for each violation; how many things were looked at
    if [ -s "$3" ]; then
        echo "FAILED $1 $2"
        head -n 8 "$3" | sed 's/^/    /'
        bad=1
    else
        echo "ok     $1 $2 ($4)"
    fi
}

score_one() { # base folder, name, K, seeds: scores base/../NAME.src; NAME.score becomes what the grader says
    # of several seeds, 2,3,4: NAME.2.score, NAME.3.score ..; NAME=a1.q2.3: with HOLE=a1.q2 BAD=3, see dev/starter.awk
    work=$1/../$2.dir
    cp -R "$1" "$work"
    cp "$1/../$2.src" "$work/$(sed -n 's/^SRC ?= //p' "$1/Makefile")"
    sed "s/-DVARIANT=[0-9]*/-DVARIANT=$3/" "$1/Makefile" > "$work/Makefile"
    races=0 opt='-O0 -g0'
    case $2 in starter | reference | race.*) races= ;; esac # in CUDA: the others compile in half the time
    case $2 in switched) if [ -d "$1/cuda_on_cpu" ]; then opt="$opt -DGRADE_SECONDS=2"; fi ;; esac # endless loops, quick tests
    for seed in $(echo "$4" | tr , ' '); do
        to=$1/../$2
        if [ "$seed" != "$4" ]; then to=$to.$seed; fi
        case $seed in *=*) to=$1/../${seed%%=*} HOLE=${seed#*=} BAD=${seed##*.} seed=1; HOLE=${HOLE%.*}; export HOLE BAD ;; esac
        make -s -C "$work" grade OPT="$opt" SEED="$seed" ${races:+RACES=$races} > "$to.score" 2> "$to.said" ||
            echo "NOT GRADED" >> "$to.score"
    done
    rm -rf "$work"
}

lost() { # the questions that a score lost, on one line; or NOT GRADED
    awk '$3 == "tests" && $5 == "points" { split($4, p, "/"); if (p[1] != p[2]) printf "%s%s", n++ ? " " : "", $1; seen++ }
        END { if (!seen || /NOT GRADED/) printf "NOT GRADED" }' "$1"
}

check_table() { # a1
    awk -v a="$1" '
        $1 ~ /^#/ || NF == 0 || $1 ~ /^(source|run|needs|spares)$/ { next }
        $1 != a ".q" (n + 1) { print FILENAME ":" FNR ": question " $1 ", expected " a ".q" n + 1; next }
        { n++; id[$1] = 1 }
        $3 !~ /^[1-9][0-9]*$/ { print FILENAME ":" FNR ": points are not a number: " $3 }
        NF == 4 || (NF > 4 && $4 != "after") { print FILENAME ":" FNR ": not `question function points [after question...]`" }
        { for (i = 5; i <= NF; i++) if (!($i in id)) print FILENAME ":" FNR ": " $i " does not come before " $1 }
        END { if (!n) print FILENAME ":1: no question" }' "$docs/$1.txt"
    for f in "$docs/$1.md" "$docs/$1.hints.txt"; do [ -f "$f" ] || { echo "$f is missing"; return; }; done
    sum=$(awk '$1 ~ /\.q/ { sum += $3 } END { print sum + 0 }' "$docs/$1.txt")
    said=$(sed -n 's/^Points: \([0-9]*\) by the grader.*/\1/p' "$docs/$1.md")
    [ "$sum" = "$said" ] || echo "$docs/$1.md: says '${said:-no} points by the grader', the table adds up to $sum"
    for q in $(questions_of "$1"); do
        points=$(awk -v q="$q" '$1 == q { print $3 }' "$docs/$1.txt")
        grep -q "^### $q .*($points point" "$docs/$1.md" || echo "$docs/$1.md: no heading '### $q ... ($points points)'"
        grep -q "^Hint $q:" "$docs/$1.hints.txt" || echo "$docs/$1.hints.txt: no 'Hint $q:'"
    done
}

function_of() { sed -n '2s~^/^.*[ *]\([A-Za-z0-9_]*\)(/,.*~\1~p' "$1"; } # a mutant's script: the function that it is about

job() { # name, K, seed: to be scored; the file comes from stdin
    cat > "$dir/$a/$1.src"
    echo "$1 $2 $3" >> "$dir/$a/jobs"
}

expect() { # name, the questions that must be lost: a line if others are
    got=$(lost "$dir/$a/$1.score")
    if [ "$got" != "$2" ]; then echo "$1: loses '$got', expected '$2'"; head -n 3 "$dir/$a/$1.said"; fi
}

check_one() { # a1
    a=$1 source=$(source_of "$1") file=$(file_of "$1") base=$dir/$1/base
    mkdir -p "$dir/$a"
    check_table "$a" > "$dir/$a/report"
    property "$a" "table, handout and hints agree" "$dir/$a/report" "$(questions_of "$a" | wc -l | tr -d ' ') questions"
    [ ! -s "$dir/$a/report" ] || return 0
    lay_out "$a" "$base" 0
    all=$(holes_of "$a" | tr '\n' ' ' | sed 's/ $//')
    export CUDACPU_BUILD="$dir/cudacpu" # one for all

    # what a student gets compiles without a warning; it runs up to its first hole, which names itself
    cp -R "$base" "$dir/$a/student"
    : > "$dir/$a/report"
    make -C "$dir/$a/student" ${quick:+OPT=-O0} > "$dir/$a/said" 2>&1 || cat "$dir/$a/said" > "$dir/$a/report"
    ! grep -q warning "$dir/$a/said" || cat "$dir/$a/said" > "$dir/$a/report"
    property "$a" "the starter compiles without a warning" "$dir/$a/report" "$file"
    status=0
    run=$(line_of "$a" run)
    # shellcheck disable=SC2086 # arguments
    (cd "$dir/$a/student" && "./${file%.*}" $run) > "$dir/$a/said" 2>&1 || status=$?
    if [ $status -eq 64 ] && grep -q "$file:[0-9]*: $a.q[0-9]* is not written yet" "$dir/$a/said"; then : > "$dir/$a/report"
    else { echo "exit code $status, expected 64:"; tail -n 3 "$dir/$a/said"; } > "$dir/$a/report"; fi
    property "$a" "the starter runs up to its first hole, which names itself" "$dir/$a/report" "exit code 64"

    # everything that is to be scored, at once
    job starter 0 1 < "$base/$file"
    job reference 0 1 < "$source"
    switches=$(for q in $(holes_of "$a"); do printf 'without.%s=%s.0,' "$q" "$q"; done)
    if [ -z "$quick" ]; then more_jobs; fi
    awk -v switched=1 -f dev/starter.awk "$docs/$a.txt" "$source" | job switched 0 "${switches%,}"
    xargs -n 3 -P "${JOBS:-2}" dev/assignment.sh --score "$base" < "$dir/$a/jobs"

    { expect starter "$all"
      [ "$(grep -c 'not written yet$' "$dir/$a/starter.score")" = "$(echo "$all" | wc -w | tr -d ' ')" ] ||
          awk '$3 == "tests" && !/not written yet$/ { print "starter: instead of `not written yet`: " $0 }' "$dir/$a/starter.score"
    } > "$dir/$a/report"
    property "$a" "the starter scores 0 on every question, which says that it is not written yet" "$dir/$a/report" \
        "$(echo "$all" | wc -w | tr -d ' ') questions"
    expect reference "" > "$dir/$a/report"
    property "$a" "the reference scores full" "$dir/$a/report" "$(tail -n 1 "$dir/$a/reference.score")"
    for q in $(holes_of "$a"); do
        expect "without.$q" "$(awk -v q="$q" '$1 ~ /\.q/ && $2 != "-" { is = $1 == q; for (i = 5; i <= NF; i++) is = is || $i == q
            if (is) printf "%s%s", n++ ? " " : "", $1 }' "$docs/$a.txt")"
    done > "$dir/$a/report"
    property "$a" "a question emptied alone loses itself and those declared after it" "$dir/$a/report" \
        "$(echo "$all" | wc -w | tr -d ' ') questions"
    if [ -z "$quick" ]; then more_results; fi
}

more_jobs() {
    job seed 0 2,3,4,5,6 < "$source"
    case $source in
        *.c) wrong=$tests/wrong ;;
        dev/*) wrong=$tests/wrong_$a ;;
        *vit*) wrong=$tests/wrong_vit ;;
        *) wrong=$tests/wrong_cuda ;;
    esac
    spared=" $(line_of "$a" spares | tr '\n' ' ') "
    # a build takes seconds, so several bugs share one: the n-th of each question goes into build n; but questions that need others,
    # or are needed, have builds of their own
    for f in "$wrong"/*.sed; do
        name=$(basename "$f" .sed) function=$(function_of "$f")
        if [ -z "$function" ]; then continue; fi
        case $spared in *" $name "*) continue ;; esac
        q=$(awk -v f="$function" '$1 ~ /\.q/ && index("+" $2 "+", "+" f "+") { print $1 }' "$docs/$a.txt")
        if [ -z "$q" ]; then continue; fi
        n=$(($(cat "$dir/$a"/wrong.*.bugs 2> /dev/null | grep -c " $q$" || true) + 1))
        if awk -v q="$q" '{ for (i = 5; i <= NF; i++) if (($1 == q || $i == q) && $2 != "-") found = 1 } END { exit !found }' \
            "$docs/$a.txt"; then n=$q.$n; fi
        to=$dir/$a/wrong.$n
        [ -f "$to.src" ] || cp "$source" "$to.src"
        sed -f "$f" "$to.src" > "$to.tmp"
        mv "$to.tmp" "$to.src"
        echo "$name $q" >> "$to.bugs"
    done
    for f in "$dir/$a"/wrong.*.bugs; do
        if [ -f "$f" ]; then echo "$(basename "$f" .bugs) 0 1" >> "$dir/$a/jobs"; fi
    done
    # what goes badly wrong, in a question that no other needs
    victim=$(awk '$1 ~ /\.q/ && $2 != "-" { id[++n] = $1; for (i = 5; i <= NF; i++) needed[$i] = 1 }
        END { for (i = n; i > 0; i--) if (!(id[i] in needed)) { print id[i]; exit } }' "$docs/$a.txt")
    for n in 1 2 3 4 5 6; do switches=${switches}bad.$n=$victim.$n,; done
    # what only check mode sees, whatever the result: test/races/a4.1.sed, its first line names the question
    if command -v clang++ > /dev/null; then
        for f in "$tests/races/$a".[0-9]*.sed; do
            if [ -f "$f" ]; then sed -f "$f" "$source" | job "race.$(basename "$f" .sed)" 0 1; fi
        done
    fi
    for k in $(seq 1 "$(variants_of "$a")"); do
        job "variant.$k.plain" "$k" 1 < "$source"
        program_of "$a" "$k" | job "variant.$k.solution" "$k" 1,2,3
    done
}

more_results() {
    for seed in 2 3 4 5 6; do expect seed.$seed ""; done > "$dir/$a/report"
    property "$a" "the reference scores full with other seeds" "$dir/$a/report" "5 seeds"
    for f in "$dir/$a"/wrong.*.bugs; do
        [ -f "$f" ] || continue
        lost=$(lost "${f%.bugs}.score")
        while read -r name q; do
            case " $lost " in
                *" $q "*) ;;
                " NOT"*) echo "$name could not be graded"; head -n 2 "${f%.bugs}.said" ;;
                *) echo "$name does not lose $q: $(sed -n '1s/^# //p' "$wrong/$name.sed")" ;;
            esac
        done < "$f"
    done > "$dir/$a/report"
    property "$a" "each one-line bug in these functions loses its question" "$dir/$a/report" \
        "$(cat "$dir/$a"/wrong.*.bugs 2> /dev/null | wc -l | tr -d ' ') bugs of $wrong in $(grep -c '^wrong' "$dir/$a/jobs" ||
            true) builds"
    for f in "$dir/$a"/race.*.src; do
        [ -f "$f" ] || continue
        name=$(basename "$f" .src)
        expect "$name" "$(sed -n '1s/^# //p' "$tests/races/${name#race.}.sed")"
        ! cmp -s "$f" "$source" || echo "$name changes nothing"
    done > "$dir/$a/report"
    case $source in *.cu)
        what="races and bad accesses lose points though the result is right"
        if command -v clang++ > /dev/null; then
            property "$a" "$what" "$dir/$a/report" "$(find "$dir/$a" -name 'race.*.src' | wc -l | tr -d ' ') planted"
        else untested "$a" "$what" "no clang++"; fi
        : > "$dir/$a/report"
        nvcc=$(command -v nvcc || command -v /usr/local/cuda/bin/nvcc || true)
        what="program and grader compile for a GPU"
        cp "$source" "$dir/$a/student/$file"
        if [ -n "$nvcc" ]; then
            make -s -C "$dir/$a/student" CUDA=1 NVCC="$nvcc" all "grade_${a}_gpu" > "$dir/$a/said" 2>&1 ||
                cp "$dir/$a/said" "$dir/$a/report"
            property "$a" "$what" "$dir/$a/report" "$nvcc"
        else untested "$a" "$what" "no nvcc"; fi ;;
    esac
    for i in 1 2 3 4 5 6; do expect bad.$i "$victim"; done > "$dir/$a/report"
    property "$a" "exit(0), _exit(0), abort, a segfault, endless loops cost one question" "$dir/$a/report" "6, in $victim"
    : > "$dir/$a/report"
    for k in $(seq 1 "$(variants_of "$a")"); do
        expect "variant.$k.plain" "$(sed -n '1s/^# changes //p' "$tests/variants/$a.$k.sed")"
        for seed in 1 2 3; do expect "variant.$k.solution.$seed" ""; done
        ! cmp -s "$dir/$a/variant.$k.plain.src" "$dir/$a/variant.$k.solution.src" || echo "variant $k changes nothing"
        handout "$a" "$k" | grep -q 'one thing is different' || echo "$docs/$a.md has no line <!-- variant -->"
        awk -f dev/starter.awk "$docs/$a.txt" "$dir/$a/variant.$k.solution.src" > "$dir/$a/starter.tmp"
        ! cmp -s "$dir/$a/starter.tmp" "$base/$file" || echo "variant $k: the comments of the starter do not say it"
    done >> "$dir/$a/report"
    property "$a" "a variant: its solution scores full, the reference loses what the variant changes" "$dir/$a/report" \
        "$(variants_of "$a") variants, 3 seeds"
}

check() { # [--quick] [a1...]
    quick=
    if [ "${1-}" = --quick ]; then quick=1; shift; fi
    # shellcheck disable=SC2046 # names
    if [ $# -eq 0 ]; then set -- $(assignments); fi
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    trap 'exit 1' HUP INT TERM
    begin=$(date +%s)
    for one in "$@"; do
        table_of "$one" > /dev/null
        check_one "$one"
    done
    echo "assignments-check: $([ $bad -eq 0 ] && echo all properties hold || echo FAILED), $(($(date +%s) - begin)) seconds"
    exit $bad
}

case ${1-} in
    make) if [ $# -eq 3 ]; then write_out "a$2" "$3"; exit 0; fi ;;
    course)
        if [ $# -eq 2 ]; then
            for a in $(assignments); do write_out "$a" "$2/$a"; done
            cp "$docs/a0.md" "$docs/a6.md" "$2/"
            echo "wrote $2: $(assignments | tr '\n' ' ')as variant ${VARIANT:-0};" \
                "a0.md and a6.md are handouts for the whole project"
            exit 0
        fi ;;
    grade) if [ $# -eq 3 ]; then grade "a$2" "$3"; exit 0; fi ;;
    hint) if [ $# -eq 2 ]; then hint "$2"; exit 0; fi ;;
    solution) if [ $# -eq 2 ]; then solution "$2"; exit 0; fi ;;
    check) shift; check "$@" ;;
    --score) score_one "$2" "$3" "$4" "$5"; exit 0 ;;
esac
sed -n '2,9s/^# *//p' "$0" >&2
exit 2
