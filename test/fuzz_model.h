/*
The harness of the fuzzers for programs that train: files of tensors, and flags. It stands behind the program, which has them, and
behind what differs: SEEDS, the number of good files; values of metadata and flags that are words; good_flags, whole ones.
*/

// ----------------------------------------------------------------------------------------------------------------------
// Files of tensors

enum { MOST = 160 };
static SafeFile seeds[SEEDS];               // good files
static struct { SafeTensor t[MOST]; size_t shift[MOST]; char meta[MOST][2][512]; int n, n_meta; } draft; // of a file
static unsigned char pool[65536];           // data that hurts

static Settings settings(const char* line) { // the flags in a line, with blanks between
    static char text[256];
    const char* argv[32] = {"fuzz"};
    int argc = 1;
    snprintf(text, sizeof text, "%s", line);
    for (char* word = strtok(text, " "); word != NULL; word = strtok(NULL, " ")) { argv[argc++] = word; }
    return flags_read(argc, argv);
}

static void fill_pool(void) {
    static const float bad[] = {NAN, INFINITY, -INFINITY, 0.0f, 1.0f, -1.0f, FLT_MAX, 1e-40f};
    for (size_t i = 0; i < sizeof pool / 4; i++) {
        uint32_t word = (uint32_t)(pick(4) ? 0x3c000000 + pick(0x02000000) : number());
        memcpy(pool + 4 * i, pick(8) ? (const void*)&word : &bad[pick(8)], 4);
    }
}

static void save_others(const char* path) { // a good file of tensors that no model has
    static const char* dtypes[] = {"F32", "U8", "BF16", "I64", "F16", "F64"};
    static const size_t shapes[6][3] = {{2, 3, 0}, {0, 7, 0}, {1, 0, 0}, {5, 0, 0}, {2, 2, 2}, {0, 0, 0}};
    static const int dims[6] = {2, 2, 0, 1, 3, 1};
    SafeTensor t[6];
    for (int i = 0; i < 6; i++) { t[i] = safe_tensor("tensor of ", dtypes[i], dtypes[i], dims[i], shapes[i], pool); }
    safetensors_save(path, t, 6, "\"a\":\"b\",\"c\":\"\"");
}

static const char* value(void) { return values[pick(sizeof values / sizeof values[0])]; }

static void change_draft(void) { // one random change of a tensor or of the metadata; offsets still fit, but for one case
    static const char* dtypes[] = {"F64", "I64", "F32", "I32", "BF16", "F16", "U8", "F8", ""};
    size_t x = pick((size_t)draft.n), y = pick((size_t)draft.n), m = pick(pick(2) && draft.n_meta > 20 ? 20 : (size_t)draft.n_meta);
    SafeTensor *a = &draft.t[x], *b = &draft.t[y], was = *a;
    if (draft.n == 0 || draft.n_meta == 0) { return; }
    switch (pick(16)) {
    case 0: *a = draft.t[--draft.n]; break;
    case 1: if (draft.n < MOST) { draft.t[draft.n++] = *a; } break;
    case 2: memcpy(a->name, b->name, sizeof a->name); break;
    case 3: a->name[pick(strlen(a->name) + 1)] = (char)pick(256); break;
    case 4: strcpy(a->dtype, dtypes[pick(9)]); break;
    case 5: a->shape[pick(a->ndim > 0 ? (size_t)a->ndim : 8)] = (size_t)number(); break;
    case 6: a->ndim = (int)pick(9); break;
    case 7: case 8: // one dimension more, in front
        memmove(a->shape + 1, a->shape, 7 * sizeof(size_t));
        a->shape[0] = 1 + pick(2);
        a->ndim += a->ndim < 8;
        break;
    case 9: *a = *b; *b = was; break;               // as good as before
    case 10: memcpy(was.name, b->name, sizeof was.name); *b = was; break;
    case 11: // other data; rather of the few that are no weights
        for (int i = 0; i < 9 && strcmp(a->dtype, "F32") == 0; i++) { a = &draft.t[pick((size_t)draft.n)]; }
        a->data = pool + 4 * pick(sizeof pool / 8);
        break;
    case 12: draft.shift[x] = pick(2) ? (size_t)number() : 0 - a->bytes - 4 * pick(3); break;
    case 13: memcpy(draft.meta[m], draft.meta[--draft.n_meta], sizeof draft.meta[m]); break;
    case 14: snprintf(draft.meta[m][1], 512, "%" PRIu64, number()); break;
    default: snprintf(draft.meta[m][1], 512, "%s", value());
    }
    for (int i = 0; i < draft.n; i++) { // their bytes now, which may wrap
        SafeTensor* t = &draft.t[i];
        size_t bytes = dtype_size(t->dtype) > 0 ? dtype_size(t->dtype) : 4;
        for (int d = 0; d < t->ndim; d++) { bytes *= t->shape[d]; }
        if (bytes > t->bytes && (t->data < pool || t->data >= pool + sizeof pool)) { t->data = pool; }
        t->bytes = bytes < sizeof pool / 2 ? bytes : sizeof pool / 2;
    }
}

static void put_draft(void) {
    size_t at = 0;
    FILE* h = fmemopen(input + 8, ROOM / 2, "w");
    fprintf(h, "{\"__metadata__\":{");
    for (int i = 0; i < draft.n_meta; i++) {
        fputs(i > 0 ? "," : "", h);
        json_print(h, draft.meta[i][0]);
        fputc(':', h);
        json_print(h, draft.meta[i][1]);
    }
    for (int i = 0; i < draft.n; i++) {
        const SafeTensor* t = &draft.t[i];
        fputs(i == 0 ? "}," : ",", h);
        json_print(h, t->name);
        fprintf(h, ":{\"dtype\":\"%s\",\"shape\":[", t->dtype);
        for (int d = 0; d < t->ndim; d++) { fprintf(h, d > 0 ? ",%zu" : "%zu", t->shape[d]); }
        fprintf(h, "],\"data_offsets\":[%zu,%zu]}", at + draft.shift[i], at + t->bytes + draft.shift[i]);
        at += t->bytes;
    }
    fputc('}', h);
    uint64_t header = (uint64_t)ftell(h);
    fclose(h);
    memcpy(input, &header, 8);
    hot = input_size = 8 + (size_t)header;
    for (int i = 0; i < draft.n; i++) { put(draft.t[i].data, draft.t[i].bytes); }
}

static void put_file(int first, int n, int all) { // one of these seeds with some changes; all: with moments and records
    const SafeFile* f = &seeds[first + (int)pick((size_t)n)];
    draft.n = 0;
    for (int i = 0; i < f->n; i++) { if (all || strchr(f->tensors[i].name, '/') == NULL) { draft.t[draft.n++] = f->tensors[i]; } }
    memcpy(draft.meta, f->meta, (size_t)f->n_meta * sizeof *f->meta);
    draft.n_meta = f->n_meta;
    memset(draft.shift, 0, sizeof draft.shift);
    for (size_t i = plain ? 0 : pick(4); i > 0; i--) { change_draft(); }
    put_draft();
}

static SafeFile open_file(void) { // and checks what safetensors_open let pass
    SafeFile f = safetensors_open(in_folder("input"));
    for (int i = 0; i < f.n; i++) {
        const SafeTensor* t = &f.tensors[i];
        double bytes = (double)dtype_size(t->dtype);
        for (int d = 0; d < t->ndim; d++) { bytes *= (double)t->shape[d]; }
        must(bytes == (double)t->bytes, "tensor %s: %zu bytes, by its shape %.17g", t->name, t->bytes, bytes);
        must(t->data >= f.map && t->bytes <= f.map_size - (size_t)(t->data - f.map), "tensor %s is not in the file", t->name);
        must(safetensors_find(&f, t->name) == t, "tensor %s is there twice", t->name);
        must(i == 0 || t->data == t[-1].data + t[-1].bytes, "tensor %s overlaps", t->name);
    }
    const SafeTensor* last = &f.tensors[f.n > 0 ? f.n - 1 : 0];
    must(f.n == 0 || last->data + last->bytes == f.map + f.map_size, "something is behind the last tensor");
    return f;
}

static void put_safetensors(void) { put_file(0, SEEDS, 1); }
static void read_safetensors(void) {
    SafeFile f = open_file();
    safetensors_close(&f);
    must(n_taken == 0, "%d things are lost", n_taken);
}

// ----------------------------------------------------------------------------------------------------------------------
// Flags

static void put_flag(size_t mood) { // mood: 0 any good value, 1 the highest of numbers, 2 the lowest
    static const char *bad[] = {"", "nan", "inf", "-1", "1e999", "0x10", " 5", "1e3", "--", "1.5", "1e-310", "\x1b[m", "a\nb"};
    const Flag* f = &flag_table[pick(N_FLAGS)];
    while (mood > 0 && *f->type != 'i') { f = &flag_table[pick(N_FLAGS)]; }
    int whole = strcmp(f->type, "float") != 0, joined = pick(2) > 0;
    if (mood == 0 && pick(4) == 0) {
        put_text("%s", good_flags[pick(sizeof good_flags / sizeof good_flags[0])]);
        put("", 1);
        return;
    }
    put_text("%s%s", joined ? f->name : f->twin, joined ? "=" : "");
    if (!joined) { put("", 1); }
    if (!joined && !strcmp(f->type, "flag")) { return; }
    double x = f->low + (mood == 1 ? 1.0 : mood == 2 ? 0.0 : (double)pick(1001) / 1000.0) * (f->high - f->low);
    if (whole && mood == 0) { x = pick(2) ? fmin(f->high, f->low + (double)pick(9)) : floor(x); }
    if (one_in(40)) { x += pick(2) ? f->high + 1.0 : -1.0 - f->high; }
    if (one_in(40)) { put_text("%s", bad[pick(13)]); }
    else if (*f->type == 't') { put_text("%s", value()); }
    else { put_text(whole ? "%.0f" : "%.9g", x); }
    put("", 1);
}
static void put_flags(void) {
    size_t mood = pick(5);
    for (size_t i = pick(mood == 1 ? 30 : 5); i > 0; i--) { put_flag(mood); }
}

static void check_settings(const Settings* s) { // what flags_read lets pass
    for (int i = 0; i < N_FLAGS; i++) {
        const Flag* f = &flag_table[i];
        const void* at = (const char*)s + f->place;
        if (*f->type == 't') { must(strlen(*(const text*)at) <= 500, "%s is too long", f->name); continue; }
        double x = strcmp(f->type, "float") == 0 ? (double)*(const float*)at : *(const int*)at;
        must(x >= f->low - 1e-6 && x <= f->high * (1.0 + 1e-6), "%s is %g", f->name, x);
    }
}
