#!/bin/sh
# Checks what the programs and the docs promise and no compiler sees. Takes seconds, needs no GPU, changes nothing.
# Every violation is one line: where, what, and what to do. Exit status 1 if there is any.
#   dev/check_style.sh                 all guards
#   dev/check_style.sh --write-flags   writes what --help prints into docs/flags.md
#   dev/check_style.sh --write-links   points links of the docs that went stale at where their names stand now
# A link is written `file:line name` in backticks: `train_gpt2_dynmoe.c:123 gate_forward`.
# shellcheck disable=SC2016 # dollars and backticks in single quotes are meant: awk programs and Markdown
set -eu
cd "$(dirname "$0")/.."

# each program and its line budget; raising one is a visible change that says why
# (the C program: 1,800 was the first budget. The algorithm, up to the line `Here the algorithm ends`, keeps within 1,440, an
# evening: 1,400 and 40 lines that make products of few rows fast. What users and bad input need takes as much again: strict
# readers, 60 flags, resuming, GPT-2's files, plans, logs; tools that are not training stand in dev/. The CUDA program: 2,600 at
# first; 1,400 lines are twins of the C program. The vision program: 2,400 at first; 2,300 lines are twins of the CUDA program;
# readers of pictures, augmentation, prediction are its own.
# Flash attention is 320 lines of each: cuBLAS does not have it, and what a lane of a tensor core holds must be said beside it.
# Both: 300 lines more for what one GPU's speed takes: the floor of a step, streams, plans of cublasLt, graphs.)
programs='train_gpt2_dynmoe.c:2900 train_gpt2_dynmoe.cu:4240 train_vit_dynmoe.cu:4760'
built='train_gpt2_dynmoe train_gpt2_dynmoe_cu train_vit_dynmoe'
longest_line=132
fixture_bytes=1572864 # of all fixtures together
algorithm='^// Here the algorithm ends' # in the C program, at line 1440 at the latest
algorithm_lines=1440

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# All files of the project, by git's list (ignored ones left out) or, outside of a clone, all that lies here.
all_files() {
    git ls-files --cached --others --exclude-standard 2> /dev/null ||
        find . -type f ! -path './.git/*' ! -path './out*/*' ! -name '*.tmp' | sed 's|^\./||'
}
all_files | sort -u | while IFS= read -r f; do [ ! -f "$f" ] || printf '%s\n' "$f"; done > "$tmp/files"

# $1: extended pattern of file names; $2 and on: a command that takes the files
over_files() {
    pattern=$1
    shift
    grep -E "$pattern" "$tmp/files" | tr '\n' '\0' | xargs -0 "$@" /dev/null || true
}

existing_programs() {
    for p in $programs; do [ ! -f "${p%:*}" ] || echo "$p"; done
}

own_includes() {
    for p in $(existing_programs); do
        awk '/^[ \t]*#[ \t]*include[ \t]*"/ {
            print FILENAME ":" FNR ": includes a file of ours; a program stands alone: move the text in" }' "${p%:*}"
    done
}

line_budgets() {
    for p in $(existing_programs); do
        awk -v max="${p#*:}" 'END { if (FNR > max) print FILENAME ":" FNR ": over its budget of " max " lines; " \
            "shorten it, or raise the budget in dev/check_style.sh and say why" }' "${p%:*}"
    done
    [ ! -f train_gpt2_dynmoe.c ] || awk -v mark="$algorithm" -v max=$algorithm_lines '
        $0 ~ mark && !at { at = FNR }
        END { if (FNR > max && (!at || at > max)) print FILENAME ":" max ": the algorithm should end here, see the line " \
            "`Here the algorithm ends`; shorten it" }' train_gpt2_dynmoe.c
    over_files '(^|/)Makefile$|\.(c|cu|cuh|h|sh|awk|py)$' awk -v max=$longest_line 'length($0) > max {
        print FILENAME ":" FNR ": " length($0) " columns; break the line before column " max }'
}

# file, name: the lines of a function from its signature to its closing brace, of a macro with all its continuations, or of a
# typedef struct; each with its number in front
function_text() {
    awk -v name="$2" '
        function is_it(text) { sub(/^__attribute__\(\(.*\)\) /, "", text); sub(/\(.*/, "", text); sub(/.*[ *]/, "", text)
            return text == name }
        !on && /^#[ \t]*define/ { n = $2; sub(/\(.*/, "", n); on = macro = n == name }
        macro { print FNR ":" $0; if ($0 !~ /\\$/) exit; next }
        !on && /^typedef struct/ { held = ""; open = 1 }
        open { held = held FNR ":" $0 "\n"
            if (match($0, /}[ \t]*[A-Za-z_0-9]+;/)) {
                n = substr($0, RSTART, RLENGTH); gsub(/[} \t;]/, "", n); open = 0
                if (n == name) { printf "%s", held; exit } }
            next }
        !on && /^[A-Za-z_].*\(/ && !/;[ \t]*$/ { on = is_it($0) }
        on { print FNR ":" $0 }
        on && /^}/ { exit }
        on && !body && /\{/ { body = 1; if (/}[ \t]*$/) exit }' "$1"
}

# A GPT2 is a ViT in the vision program: its names there, and its text read as that of the others.
own_name() { case $1 in *_vit_*) echo "$2" | sed 's/gpt2_/vit_/' ;; *) echo "$2" ;; esac; }
own_text() { case $1 in *_vit_*) sed 's/ViT/GPT2/g; s/vit_/gpt2_/g' ;; *) cat ;; esac; }

twins() {
    [ -f dev/twins.txt ] || return 0
    sed 's/#.*//' dev/twins.txt | while read -r name a b rest; do
        [ -n "$name" ] || continue
        if [ -z "$b" ] || [ -n "$rest" ]; then
            echo "dev/twins.txt:1: '$name $a $b $rest' is not of the form: function fileA fileB"
            continue
        fi
        found=0
        : > "$tmp/twin0"; : > "$tmp/twin1"
        for f in "$a" "$b"; do
            if [ ! -f "$f" ]; then echo "dev/twins.txt:1: twin $name: there is no file $f; mend or remove the line"; break; fi
            function_text "$f" "$(own_name "$f" "$name")" | own_text "$f" > "$tmp/twin$found"
            if [ ! -s "$tmp/twin$found" ]; then echo "$f:1: twin $name not found; write it, or mend dev/twins.txt"; break; fi
            found=$((found + 1))
        done
        [ $found = 2 ] || continue
        awk -v a="$a" -v b="$b" -v name="$name" '
            { line = $0; sub(/:.*/, "", line); text = $0; sub(/^[0-9]*:/, "", text) }
            FNR == NR { n = FNR; at[n] = line; as[n] = text; next }
            text != as[FNR] { differs(at[FNR] ? at[FNR] : at[n], line); exit }
            END { if (!told && FNR < n) differs(at[FNR + 1], line) }
            function differs(i, j) { told = 1
                print a ":" i ": twin " name " differs from " b ":" j "; make both the same" }' "$tmp/twin0" "$tmp/twin1"
    done
}

# Prints doc, line, file, line, name of every link outside of ``` fences; the name is - where it is missing.
links() {
    over_files '^(README\.md|docs/.*\.md)$' awk '
        FNR == 1 { fence = 0 }
        /^[ \t]*```/ { fence = !fence }
        fence { next }
        { rest = $0
          while (match(rest, /`[A-Za-z0-9_.\/-]*[A-Za-z]:[0-9]+[^`]*`/)) {
              link = substr(rest, RSTART + 1, RLENGTH - 2); rest = substr(rest, RSTART + RLENGTH)
              colon = index(link, ":"); line = substr(link, colon + 1); name = line
              sub(/[^0-9].*/, "", line); name = substr(name, length(line) + 1)
              if (name !~ /^ [A-Za-z_][A-Za-z0-9_]*$/) name = " -"
              print FILENAME, FNR, substr(link, 1, colon - 1), line name } }'
}

# file, line, name: nothing if the name stands there, else the line where it is defined, or the nearest that has it, or 0
where_instead() {
    awk -v old="$2" -v name="$3" '
        !match(" " $0 " ", "[^A-Za-z0-9_]" name "[^A-Za-z0-9_]") { next }
        FNR == old { right = 1; exit }
        !defined && ($0 ~ ("^[A-Za-z_].*[ *]" name "\\(") && !/;[ \t]*$/ ||
            $0 ~ ("^#[ \t]*define[ \t]+" name "([^A-Za-z0-9_]|$)") ||
            $0 ~ ("^(typedef )?(struct|enum|union) " name "[^A-Za-z0-9_]") || $0 ~ ("^} " name ";")) { defined = FNR }
        { far = FNR > old ? FNR - old : old - FNR; if (!near || far < best) { near = FNR; best = far } }
        END { if (!right) print defined ? defined : near + 0 }' "$1"
}

stale_links() {
    links | while read -r doc at file line name; do
        if [ "$name" = - ]; then
            echo "$doc:$at: link $file:$line names nothing; write \`$file:$line name\` so that it can be checked"
        elif [ ! -f "$file" ]; then
            echo "$doc:$at: link to $file:$line, and there is no such file; mend or remove the link"
        else
            new=$(where_instead "$file" "$line" "$name")
            case $new in
                '') ;;
                0) echo "$doc:$at: link to $name in $file, which does not have that name; mend or remove the link" ;;
                *) echo "$doc:$at: $name is not at $file:$line but at line $new; run: make docs-links" ;;
            esac
        fi
    done
}

write_links() {
    links | while read -r doc at file line name; do
        if [ "$name" = - ] || [ ! -f "$file" ]; then continue; fi
        new=$(where_instead "$file" "$line" "$name")
        if [ "${new:-0}" = 0 ]; then continue; fi
        sed "${at}s|\`$file:$line $name\`|\`$file:$new $name\`|" "$doc" > "$tmp/doc"
        cat "$tmp/doc" > "$doc"
        echo "$doc:$at: $name: line $line -> $new"
    done
}

# The equations of docs/math.md. One is defined by its number at the end of a line in a fence; a line under it says where it stands,
# in the C program: - (M1) (M2) in `file:line name`. The numbers stand there and nowhere else; the CUDA program has all of them too.
equations() {
    doc=docs/math.md c=train_gpt2_dynmoe.c gpu=train_gpt2_dynmoe.cu
    [ -f $gpu ] || gpu=
    for p in $(existing_programs); do
        awk '{ rest = $0
            while (match(rest, /\(M[0-9]+\)/)) { print "tag", FILENAME, FNR, substr(rest, RSTART, RLENGTH)
                rest = substr(rest, RSTART + RLENGTH) } }' "${p%:*}"
    done > "$tmp/equations"
    [ ! -f $doc ] || awk '
        /^```/ { fence = !fence }
        fence && match($0, /\(M[0-9]+\)$/) { print "defined", FILENAME, FNR, substr($0, RSTART) }
        !fence && /^- (\(M[0-9]+\) )+in `train_gpt2_dynmoe\.c:[0-9]+ [A-Za-z_0-9]+`$/ {
            name = $NF; sub(/`/, "", name)
            for (i = 2; i < NF - 2; i++) { print "named", FILENAME, FNR, $i, name }
            next }
        { rest = $0
          while (match(rest, /\(M[0-9]+\)/)) { print "used", FILENAME, FNR, substr(rest, RSTART, RLENGTH)
              rest = substr(rest, RSTART + RLENGTH) } }' $doc >> "$tmp/equations"
    awk '$1 == "named" { print $5 }' "$tmp/equations" | sort -u | while read -r name; do
        function_text $c "$name" | awk -v name="$name" '{ sub(/:.*/, ""); print "line", name, $0 }'
    done > "$tmp/in_function"
    awk -v doc=$doc -v c=$c -v gpu="$gpu" '
        function at(i) { return file[i] ":" line[i] ": " number[i] }
        $1 == "line" { inside[$2, $3] = 1; next }
        { n++; kind[n] = $1; file[n] = $2; line[n] = $3; number[n] = $4; name[n] = $5 }
        $1 == "defined" && $4 != "(M" ++last ")" {
            print at(n) " where (M" last ") should stand; number the equations in order" }
        $1 == "defined" { defined[$4] = 1 }
        $1 == "named" { named[$4] = 1 }
        $1 == "tag" { tagged[$2, $4] = 1; tags[$2, $4] = tags[$2, $4] " " $3 }
        END {
            for (i = 1; i <= n; i++) {
                if (!defined[number[i]]) { print at(i) " is no equation of " doc "; mend the number, or define it there"; continue }
                if (kind[i] == "defined") {
                    if (!named[number[i]]) print at(i) " stands where? write under it: - " number[i] " in `" c ":line name`"
                    if (gpu && !tagged[gpu, number[i]]) print at(i) " is not in " gpu "; put it at the line that computes it"
                }
                if (kind[i] == "named") {
                    found = 0
                    many = split(tags[c, number[i]], where, " ")
                    for (j = 1; j <= many; j++) { if ((name[i], where[j]) in inside) { found = 1; right[number[i], where[j]] = 1 } }
                    if (!found) print at(i) " does not stand in " name[i] " of " c "; put it at the line that computes it"
                }
            }
            for (i = 1; i <= n; i++) {
                if (kind[i] == "tag" && file[i] == c && named[number[i]] && !((number[i], line[i]) in right))
                    print at(i) " stands in a function that " doc " does not name for it; mend one of the two"
            }
        }' "$tmp/in_function" "$tmp/equations"
}

# The help of a program stands in docs/flags.md in the first ``` fence after the heading with its command.
flags() {
    for program in $built; do
        if [ ! -x "$program" ] || [ -d "$program" ]; then continue; fi
        "./$program" --help > "$tmp/help" 2> /dev/null < /dev/null || echo "$program:1: --help fails"
        if ! grep -q "^## ./$program --help\$" docs/flags.md 2> /dev/null; then
            echo "docs/flags.md:1: nothing about ./$program --help; run: make docs-flags"
            continue
        fi
        awk -v heading="## ./$program --help" -v help="$tmp/help" '
            $0 == heading { mine = 1; next }
            mine && /^```/ { if (inside) exit; inside = 1; next }
            inside { if ((getline said < help) < 1) said = "(nothing)"; if (said != $0) { tell(said); exit } }
            END { if (!told && (getline said < help) > 0) tell(said) }
            function tell(said) { told = 1
                print FILENAME ":" FNR ": --help says here: " said "; run: make docs-flags" }' docs/flags.md
    done
}

write_flags() {
    mkdir -p docs
    if [ ! -f docs/flags.md ]; then
        printf '# Flags\n\nWhat `--help` prints; written by `make docs-flags`, compared by `make check-style`.\n' > docs/flags.md
    fi
    for program in $built; do
        if [ ! -x "$program" ] || [ -d "$program" ]; then continue; fi
        "./$program" --help > "$tmp/help" < /dev/null
        heading="## ./$program --help"
        grep -q "^$heading\$" docs/flags.md || printf '\n%s\n\n```\n```\n' "$heading" >> docs/flags.md
        awk -v heading="$heading" -v help="$tmp/help" '
            $0 == heading { mine = 1 }
            !inside || /^```/ { print }
            mine && /^```/ { inside = !inside; mine = inside; while (inside && (getline said < help) > 0) print said }' \
            docs/flags.md > "$tmp/flags"
        cat "$tmp/flags" > docs/flags.md
        echo "wrote what ./$program --help prints into docs/flags.md"
    done
}

# docs/cuda.md names every kernel of the CUDA programs, and none that they do not have.
kernels() {
    [ -f docs/cuda.md ] || return 0
    awk '
        FILENAME != "docs/cuda.md" {
            if (/^__global__ void [a-z_0-9A-Z]+\(/) { name = $3; sub(/\(.*/, "", name); if (!(name in at)) at[name] = FILENAME ":" FNR }
            next }
        { rest = $0
          while (match(rest, /[A-Za-z0-9_]+_kernel[^A-Za-z0-9_]/)) {
              name = substr(rest, RSTART, RLENGTH - 1); rest = substr(rest, RSTART + RLENGTH - 1); told[name] = 1
              if (!(name in at)) print "docs/cuda.md:" FNR ": no CUDA program has the kernel " name "; mend or remove it" } }
        END { for (name in at) if (!(name in told)) print at[name] ": kernel " name " is not in docs/cuda.md; say there what it does" }
    ' train_gpt2_dynmoe.cu train_vit_dynmoe.cu docs/cuda.md
}

plain_ascii() { # -I leaves binary files out; what a tokenizer is tested on is not ASCII
    over_files '^([^t]|t[^e]|te[^s]|tes[^t]|test/[^b]|test/b[^p])' env LC_ALL=C grep -nIE "[^ -~$(printf '\t')]" |
        LC_ALL=C awk -F : '{ print $1 ":" $2 ": a byte that is not plain ASCII (or a carriage return); write it in ASCII" }'
}

forbidden_words() {
    over_files . grep -nIE '/(work|farm)/' |
        awk -F : '{ print $1 ":" $2 ": a path of one machine; use a path inside of the project" }'
    over_files '(^|/)Makefile$|\.(mk|sh)$|^\.ci/' awk '{ text = $0; sub(/#.*/, "", text) }
        text ~ /-f[f]ast-math|-O[f]ast/ {
            print FILENAME ":" FNR ": fast-math hides NaN and breaks the reference; take the flag out" }'
}

fixture_size() {
    find test/fixtures test/fixtures_vit -type f -exec wc -c {} + 2> /dev/null | awk -v max=$fixture_bytes '
        $2 == "total" && NF == 2 { next }
        { sum += $1; if ($1 > most) { most = $1; largest = $2 } }
        END { if (sum > max) print largest ":1: all fixtures take " sum " bytes of " max "; make this largest one smaller" }'
}

case ${1:-} in
    --write-flags) write_flags; exit 0 ;;
    --write-links) write_links; exit 0 ;;
    '') ;;
    *) sed -n '2,7s/^# *//p' "$0" >&2; exit 2 ;;
esac

{ own_includes; line_budgets; twins; stale_links; equations; kernels; flags; plain_ascii; forbidden_words; fixture_size; } > "$tmp/report"
cat "$tmp/report"
if [ -s "$tmp/report" ]; then
    echo "check-style: $(wc -l < "$tmp/report" | tr -d ' ') violations"
    exit 1
fi
echo "check-style: no violation in $(wc -l < "$tmp/files" | tr -d ' ') files"
