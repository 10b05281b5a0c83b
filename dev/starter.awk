# Makes starter code from a program by emptying the functions that a table names. Signature and opening comments stay: they are
# the specification. The program carries no markers; a name that is not found, or is found twice, is an error.
#   awk [-v switched=1] -f dev/starter.awk docs/assignments/a1.txt train_gpt2_dynmoe.c > starter.c
#   awk -v solution=a1.q2 -f dev/starter.awk docs/assignments/a1.txt train_gpt2_dynmoe.c      prints its functions as they are
# switched: for `dev/assignment.sh check`; all functions stay, and HOLE=a1.q2 in the environment opens one hole when the program
# runs, so that one build serves for all. BAD=1 to 6 says what stands in it: exit(0), _exit(0), abort, a segfault, endless loops.
# A definition starts in column 0, and ends with a } in column 0 or, if it is short, on the line where it starts.

function code(line) { sub(/[ \t]*\/\/.*$/, "", line); sub(/[ \t]+$/, "", line); return line } # without a comment at the end

function wanted(line) { # the function that this line begins to define, if the table names it
    gsub(/__attribute__\(\(.*\)\) |__launch_bounds__\([^)]*\) /, "", line)
    sub(/\(.*/, "", line)
    sub(/.*[ *]/, "", line)
    return line in id ? line : ""
}

function hole(n,   todo) {
    todo = device ? "TODO_DEVICE" : "TODO"
    print "    // YOUR CODE HERE: " id[name] ", " points[name] " points (the reference takes " n (n == 1 ? " line)" : " lines)")
    print "    " todo "(\"" id[name] "\");"
    print "}"
}

FNR == NR {
    if ($1 !~ /^a[0-9]+\.q[0-9]+$/ || (solution != "" && $1 != solution)) { next }
    if ($2 == "-") { next }   # a question about functions of others: their speed, for example
    n = split($2, names, "+") # a question of several functions: names with + between
    for (i = 1; i <= n; i++) { id[names[i]] = $1; points[names[i]] = $3; want++ }
    next
}

switched && !told && /^#[ \t]*include/ {
    told = 1
    print "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>"
    print "static inline void hole_switch(const char* question) {\n    const char *is = getenv(\"HOLE\"), *bad = getenv(\"BAD\");"
    print "    if (is == NULL || strcmp(is, question) != 0) { return; }\n    switch (bad == NULL ? 0 : atoi(bad)) {"
    print "        case 1: exit(0);\n        case 2: _exit(0);\n        case 3: abort();"
    print "        case 4: *(volatile int*)0 = 1; break;\n        case 5: for (volatile int i = 0;; ) { (void)i; }"
    print "        case 6: for (;;) { printf(\"{\\\"score\\\": 100}\"); }"
    print "        default: fprintf(stderr, \"%s is not written yet\\n\", question); exit(64);\n    }\n}"
}
solution == "" && !told && /^#[ \t]*include/ {
    told = 1
    print "// A hole names itself: file, line and question, exit code 64. Delete the line TODO(..) when you fill one."
    print "#define TODO(question) do { fflush(stdout); fprintf(stderr, \"%s:%d: %s is not written yet\\n\", __FILE__, __LINE__, \\"
    print "    question); exit(64); } while (0)"
    if (FILENAME ~ /\.cu$/) { # in code for the GPU
        # not by TODO: check mode sees the kernel read stderr, which is of the host, and would call that a bad access
        print "#ifdef __NVCC__\n#define TODO_STOP() __trap()\n#else // without a GPU\n#define TODO_STOP() exit(64)\n#endif"
        print "#define TODO_DEVICE(question) do { printf(\"%s:%d: %s is not written yet\\n\", __FILE__, __LINE__, question); \\"
        print "    TODO_STOP(); } while (0)"
    }
}

state == 0 && /^[A-Za-z_].*\(/ && (name = wanted($0)) != "" {
    held = ""
    state = 1
}
state == 1 { # the signature, perhaps over several lines; a line that ends in ; was only a declaration
    held = held $0 "\n"
    line = code($0)
    if (line ~ /;$/ && line !~ /\{/) { if (solution == "") { printf "%s", held }; state = 0; next }
    if (line !~ /\{/) { next }
    if (found[name]++) { print "starter.awk: " name " is defined twice" > "/dev/stderr"; failed = 1; exit 1 }
    done++
    if (solution != "") { printf "%s", held; state = line ~ /\}$/ ? 0 : 4; next }
    if (switched) { # the switch behind the {
        sub(/\{/, "{ hole_switch(\"" id[name] "\");", held)
        printf "%s", held
        state = line ~ /\}$/ ? 0 : 5
        next
    }
    device = held ~ /__global__|__device__/ && held !~ /__host__/
    if (line ~ /\}$/) { # all on one line
        comment = $0
        if (!sub(/^.*\}[ \t]*\/\//, "//", comment)) { comment = "" }
        sub(/\{.*/, "{", held)
        print held
        if (comment != "") { print "    " comment }
        hole(1)
        state = 0
    } else {
        printf "%s", held
        state = 2
        n = 0
    }
    next
}
state == 2 && /^[ \t]*\/\// { print; next } # the opening comments
state == 2 || state == 3 {
    state = 3
    if (/^\}/) { hole(n); state = 0 } else if (!/^[ \t]*(\/\/.*)?$/) { n++ }
    next
}
state == 5 { print; if (/^\}/) { state = 0 } next }
state == 4 { print; if (/^\}/) { state = 0; print "" } next }
solution == "" { print }

END {
    if (!failed && (done != want || want == 0)) {
        for (n in id) { if (!found[n]) { print "starter.awk: no function " n " (" id[n] ") in " FILENAME > "/dev/stderr" } }
        if (want == 0) { print "starter.awk: no such question: " only solution > "/dev/stderr" }
        exit 1
    }
}
