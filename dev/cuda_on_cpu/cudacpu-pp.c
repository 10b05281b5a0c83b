/*
cudacpu-pp: turns CUDA C++ into C++. Reads what `g++ -E` wrote from standard input, writes to standard output.

It runs after the preprocessor, so comments and macros are gone and launches inside of macros are seen. It rewrites three things:
    K<<<grid, block, smem, stream>>>(args)   ::cudacpu::launch("K", grid, ...).run([=](auto... a) { K(a...); }, args)
    __shared__ T x[N];                       typedef T x_t[N]; ... x_t& x = the block's own x;
    extern __shared__ T x[];                 T* x = the block's dynamic shared memory;
and neither adds nor removes a newline, or says by a linemarker where it is, so that file and line of every message stay those of
the .cu file.
What it does not understand is an error here or in the compiler, never silently something else.

With CUDACPU_DROP=N in the environment it leaves out the N-th barrier or fence of the text, to see whether anybody notices, and
says which on standard error; exit code 3 if there are not so many. test/barriers.sh does that for all of them.
*/
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char* in;        // all of the input, with 8 zeros behind it
static size_t in_n;
static char* out;       // what has been written so far: a launch is found late, its kernel's name stands here already
static size_t out_n, out_room;
static char file[4096] = "standard input"; // where we are, from the linemarkers
static int line = 1;
static int drop, barriers; // the number of the barrier to leave out, 0: none; how many there were so far

// ----------------------------------------------------------------------------------------------------------------------
// Tools

static void stop(const char* fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "%s:%d: error: cudacpu-pp: ", file, line);
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\n");
    va_end(args);
    exit(1);
}

static void* grow(void* p, size_t n) {
    p = realloc(p, n);
    if (p == NULL) { stop("no memory"); }
    return p;
}

static void put(const char* s, size_t n) {
    if (out_n + n > out_room) { out = (char*)grow(out, out_room = (out_n + n) * 2 + 65536); }
    memcpy(out + out_n, s, n);
    out_n += n;
}

static void puts_(const char* s) { put(s, strlen(s)); }

static char* copy_of(const char* s, size_t n) {
    char* p = (char*)grow(NULL, n + 1);
    memcpy(p, s, n);
    p[n] = '\0';
    return p;
}

static int space(char c) { return isspace((unsigned char)c); }
static int word(char c) { return isalnum((unsigned char)c) || c == '_' || c == '$'; }

static int newlines(const char* s, size_t n) {
    int count = 0;
    for (size_t i = 0; i < n; i++) { count += s[i] == '\n'; }
    return count;
}

// The position behind the string or character constant whose quote is at i.
static size_t behind_literal(size_t i) {
    char quote = in[i];
    if (quote == '"' && i > 0 && in[i - 1] == 'R') { // R"mark( ... )mark"
        size_t mark = i + 1, open = mark;
        while (open < in_n && in[open] != '(') { open++; }
        size_t n = open - mark;
        for (size_t k = open + 1; k + n + 1 < in_n; k++) {
            if (in[k] == ')' && memcmp(in + k + 1, in + mark, n) == 0 && in[k + 1 + n] == '"') { return k + n + 2; }
        }
        stop("raw string without an end");
    }
    for (i++; i < in_n && in[i] != quote; i++) { i += in[i] == '\\'; }
    return i + 1;
}

// The position of `end` from i on, outside of all brackets and literals.
static size_t find_outside(size_t i, const char* end) {
    int depth = 0;
    size_t n = strlen(end);
    while (i < in_n) {
        if (depth == 0 && strncmp(in + i, end, n) == 0) { return i; }
        if (in[i] == '"' || in[i] == '\'') { i = behind_literal(i); continue; }
        if (strchr("([{", in[i]) != NULL) { depth++; }
        if (strchr(")]}", in[i]) != NULL && --depth < 0) { break; }
        i++;
    }
    stop("no '%s' where one belongs", end);
    return 0;
}

// s[end - 1] is a closing bracket: the position of the one that opens it.
static size_t opening(const char* s, size_t end) {
    char close = s[end - 1], open = close == ')' ? '(' : close == ']' ? '[' : '<';
    int depth = 0, round = 0; // > within (...) of template arguments does not count
    while (end > 0) {
        char c = s[--end];
        if (close == '>' && (c == ')' || c == '(')) { round += c == ')' ? 1 : -1; }
        if (round == 0 && c == close) { depth++; }
        if (round == 0 && c == open && --depth == 0) { break; }
    }
    return end;
}

// ----------------------------------------------------------------------------------------------------------------------
// K<<<...>>>(...)

static size_t before_spaces(size_t p) {
    while (p > 0 && space(out[p - 1])) { p--; }
    return p;
}

// Where, in out, the expression begins that names the kernel: a name, ns::name, s.table[i], p->f, name<T, (n > 1)>, (*f)
static size_t kernel_start(void) {
    size_t p = out_n;
    for (;;) {
        p = before_spaces(p);
        if (p > 0 && strchr(">)]", out[p - 1]) != NULL) { p = before_spaces(opening(out, p)); }
        size_t end = p;
        while (p > 0 && word(out[p - 1])) { p--; }
        if (p == end && out[p] != '(') { stop("no kernel's name before <<<"); }
        size_t q = before_spaces(p);
        if (q >= 2 && out[q - 1] == ':' && out[q - 2] == ':') {
            p = q - 2;
            if (p == 0 || !(word(out[p - 1]) || out[p - 1] == '>')) { return p; } // ::name
        } else if (q >= 2 && out[q - 1] == '>' && out[q - 2] == '-') { p = q - 2; }
        else if (q >= 1 && out[q - 1] == '.') { p = q - 1; }
        else { return p; }
    }
}

// The arguments, with __null (what NULL is to g++) as nullptr: once its type is deduced it would be a mere number.
static void put_arguments(size_t from, size_t to) {
    while (from < to) {
        int null = to - from >= 6 && memcmp(in + from, "__null", 6) == 0 && !word(in[from - 1]) && !word(in[from + 6]);
        if (null) { puts_("nullptr"); } else { put(in + from, 1); }
        from += null ? 6 : 1;
    }
}

// in[i] begins <<<. The arguments stand outside of the lambda: they are evaluated, converted and copied once, by the host.
// The lambda is generic because K may be a template whose arguments are deduced from the call.
static size_t rewrite_launch(size_t i) {
    size_t start = kernel_start();
    char* kernel = copy_of(out + start, out_n - start);
    size_t config_end = find_outside(i + 3, ">>>"), open = config_end + 3;
    while (space(in[open])) { open++; }
    if (in[open] != '(') { stop("no '(' after >>>"); }
    size_t close = find_outside(open + 1, ")"), first = open + 1;
    while (first < close && space(in[first])) { first++; }
    out_n = start;
    puts_("::cudacpu::launch(\"");
    for (char* k = kernel; *k != '\0'; k++) {
        if (strchr("\n\"\\", *k) == NULL) { put(k, 1); }
    }
    puts_("\", ");
    put(in + i + 3, config_end - (i + 3));
    puts_(").run([=](auto... cudacpu_a) { ");
    puts_(kernel);
    puts_("(cudacpu_a...); }");
    put(in + config_end + 3, open - (config_end + 3)); // a line break between >>> and (
    if (first < close) { puts_(", "); }
    put_arguments(open + 1, close);
    puts_(")");
    line += newlines(in + i, close + 1 - i);
    free(kernel);
    return close + 1;
}

// ----------------------------------------------------------------------------------------------------------------------
// __shared__

static void blank_word(char* s, const char* name) {
    size_t n = strlen(name);
    for (char* p = s; (p = strstr(p, name)) != NULL; p += n) {
        if ((p == s || !word(p[-1])) && !word(p[n])) { memset(p, ' ', n); }
    }
}

static void blank_call(char* s, const char* name) { // name(...): every shared variable is aligned to 128 bytes anyway
    for (char* p = s; (p = strstr(p, name)) != NULL;) {
        char* q = p + strlen(name);
        int depth = 0;
        while (space(*q)) { q++; }
        if (*q != '(') { p = q; continue; }
        do { depth += (*q == '(') - (*q == ')'); q++; } while (depth > 0 && *q != '\0');
        memset(p, ' ', (size_t)(q - p));
    }
}

// Where, in out, the declaration begins: behind the last ; { } : or line break, but before an alignas(...) that ends in )
static size_t declaration_start(void) {
    size_t p = out_n;
    for (;;) {
        while (p > 0 && strchr(";{}:)\n", out[p - 1]) == NULL) { p--; }
        if (p == 0 || out[p - 1] != ')') { return p; }
        size_t q = opening(out, p);
        while (q > 0 && word(out[q - 1])) { q--; }
        if (strncmp(out + q, "alignas", 7) != 0 && strncmp(out + q, "__attribute__", 13) != 0) { return p; }
        p = q;
    }
}

// The end of one declarator: a comma or the end, outside of brackets.
static char* declarator_end(char* s) {
    int depth = 0;
    for (; *s != '\0'; s++) {
        if (strchr("([{<", *s) != NULL) { depth++; }
        if (strchr(")]}>", *s) != NULL) { depth--; }
        if (depth == 0 && *s == ',') { break; }
    }
    return s;
}

static void put_shared(const char* type, const char* name, const char* dims, int dynamic) {
    size_t room = strlen(type) + 10 * strlen(name) + strlen(dims) + 512;
    char* text = (char*)grow(NULL, room);
    if (dynamic) {
        const char* close = strchr(dims, ']');
        if (close == NULL || strspn(dims, " [") != (size_t)(close - dims)) { stop("extern __shared__ %s is no array []", name); }
        snprintf(text, room, "typedef %s %s__t%s; %s__t* %s = (%s__t*)::cudacpu::dynamic_shared();", type, name, close + 1, name,
                 name, name);
    } else {
        snprintf(text, room, "typedef %s %s__t%s; static ::cudacpu::shared_variable %s__v = {sizeof(%s__t), \"%s\", 0, 0}; "
                 "%s__t& %s = *(%s__t*)::cudacpu::shared_at(&%s__v);", type, name, dims, name, name, name, name, name, name, name);
    }
    puts_(text);
    free(text);
}

// Moves `line` over in[i, end). Returns 1 if there are linemarkers in it: macros of system headers, such as __align__, bring them.
static int pass_lines(size_t i, size_t end) {
    int markers = 0;
    for (; i < end; i++) {
        if (in[i] != '\n') { continue; }
        line++;
        if (strncmp(in + i + 1, "# ", 2) == 0) { line = atoi(in + i + 3) - 1; markers = 1; }
    }
    return markers;
}

static void blank_linemarkers(char* s) {
    while ((s = strstr(s, "\n# ")) != NULL) { for (s++; *s != '\n' && *s != '\0'; s++) { *s = ' '; } }
}

// in[i] stands behind the word __shared__. `T a[3], b;` is two declarators of one type.
static size_t rewrite_shared(size_t i) {
    size_t start = declaration_start(), end = find_outside(i, ";"), before = out_n - start;
    char* text = (char*)grow(NULL, before + (end - i) + 2);
    memcpy(text, out + start, before);
    text[before] = ' ';
    memcpy(text + before + 1, in + i, end - i);
    text[before + 1 + (end - i)] = '\0';
    out_n = start;
    int breaks = newlines(text, strlen(text));
    blank_linemarkers(text);
    for (char* s = text; *s != '\0'; s++) { if (*s == '\n') { *s = ' '; } }
    char* ext = strstr(text, "extern");
    int dynamic = ext != NULL && !word(ext[6]);
    blank_word(text, "extern");
    blank_word(text, "static");
    blank_call(text, "alignas");
    blank_call(text, "__attribute__");
    char* type = NULL;
    for (char *s = text, *next; s != NULL; s = next) {
        char* stop_at = declarator_end(s);
        next = *stop_at == ',' ? stop_at + 1 : NULL;
        *stop_at = '\0';
        size_t n = strlen(s);
        while (n > 0 && space(s[n - 1])) { n--; }
        while (n > 0 && s[n - 1] == ']') { // the dimensions
            n = opening(s, n);
            while (n > 0 && space(s[n - 1])) { n--; }
        }
        char* dims = copy_of(s + n, strlen(s + n));
        size_t name_end = n;
        while (n > 0 && word(s[n - 1])) { n--; }
        char* name = copy_of(s + n, name_end - n);
        if (*name == '\0') { stop("a __shared__ declaration without a name"); }
        if (type == NULL) { type = copy_of(s, n); }
        put_shared(type, name, dims, dynamic);
        free(name);
        free(dims);
    }
    if (pass_lines(i, end)) { // where we are, said again
        char number[24];
        snprintf(number, sizeof number, "\n# %d \"", line);
        puts_(number);
        puts_(file);
        puts_("\"\n");
    } else { for (int k = 0; k < breaks; k++) { puts_("\n"); } }
    free(type);
    free(text);
    return end + 1;
}

// ----------------------------------------------------------------------------------------------------------------------
// The whole text

static void read_input(void) {
    size_t room = 1 << 20, n;
    in = (char*)grow(NULL, room + 8);
    while ((n = fread(in + in_n, 1, room - in_n, stdin)) > 0) {
        in_n += n;
        if (in_n == room) { in = (char*)grow(in, (room *= 2) + 8); }
    }
    memset(in + in_n, 0, 8);
}

static size_t linemarker(size_t i) { // a line that begins with #: a linemarker `# 12 "file" 3`, or a #pragma
    const char* end = strchr(in + i, '\n');
    size_t n = end == NULL ? in_n - i : (size_t)(end - (in + i));
    char name[4096];
    int number;
    if (sscanf(in + i, "# %d \"%4095[^\"]\"", &number, name) == 2) {
        line = number - 1;
        strcpy(file, name);
    }
    put(in + i, n);
    return i + n;
}

// `__syncthreads();` of the user's text, and what is like it: in[i, end) is the word. Its ; stays.
static size_t drop_barrier(size_t i, size_t end) {
    const char* names[] = {"__syncthreads", "__syncwarp", "__threadfence"};
    int found = 0;
    for (int k = 0; k < 3; k++) { found |= strlen(names[k]) == end - i && memcmp(in + i, names[k], end - i) == 0; }
    if (!found || strstr(file, "cuda_on_cpu/include/") != NULL || strncmp(in + end, "()", 2) != 0) { return 0; }
    if (++barriers != drop) { return 0; }
    fprintf(stderr, "%s:%d: without %.*s\n", file, line, (int)(end - i), in + i);
    puts_("(void)0");
    return end + 2;
}

static size_t rewrite_word(size_t i) {
    size_t end = i;
    int number = isdigit((unsigned char)in[i]); // 1'000.5f is one word
    while (end < in_n && (word(in[end]) || (number && (in[end] == '\'' || in[end] == '.')))) { end++; }
    size_t behind = drop > 0 ? drop_barrier(i, end) : 0;
    if (behind > 0) { return behind; }
    if (end - i == 10 && memcmp(in + i, "__shared__", 10) == 0) { return rewrite_shared(end); }
    put(in + i, end - i);
    return end;
}

int main(void) {
    int line_start = 1;
    size_t i = 0;
    if (getenv("CUDACPU_DROP") != NULL) { drop = atoi(getenv("CUDACPU_DROP")); }
    read_input();
    while (i < in_n) {
        char c = in[i];
        if (line_start && c == '#') { i = linemarker(i); continue; }
        if (c == '\n') { line++; line_start = 1; put(in + i++, 1); continue; }
        if (!space(c)) { line_start = 0; }
        if (c == '"' || c == '\'') {
            size_t end = behind_literal(i);
            line += newlines(in + i, end - i);
            put(in + i, end - i);
            i = end;
        } else if (word(c)) { i = rewrite_word(i); }
        else if (strncmp(in + i, "<<<", 3) == 0 && !(out_n >= 8 && memcmp(out + out_n - 8, "operator", 8) == 0)) {
            i = rewrite_launch(i);
        } else { put(in + i++, 1); }
    }
    if (drop > barriers) { return 3; }
    fwrite(out, 1, out_n, stdout);
    return fflush(stdout) != 0;
}
