/*
What a trained model computes, for other programs: the logits of a text as a safetensors file.

    dev/logits out/model.safetensors "Tue+5=" logits.safetensors
    python3 dev/dynmoe.py logits out/model.safetensors --prompt "Tue+5=" --compare logits.safetensors

Evaluation mode, bytes only; of a text longer than the context its last T bytes. Writes `logits` (t, V) F32.
dev/roundtrip.sh runs both commands and compares greedy continuations too.
*/
#define TESTING
#include "../train_gpt2_dynmoe.c"

int main(int argc, char** argv) {
    static GPT2 model;
    static const char* const no_flags[] = {"logits"};
    if (argc != 4) { die_usage("dev/logits out/model.safetensors \"Tue+5=\" logits.safetensors", "usage: logits MODEL TEXT OUT"); }
    Settings s = flags_read(1, no_flags);
    SafeFile file = safetensors_open(argv[1]);
    uint64_t rng = 1;
    s.eval_only = 1;
    Config config = config_make(&s, 256, &file);
    int n = (int)strlen(argv[2]), t = n < config.T ? n : config.T, V = config.V;
    if (V != 256 || n == 0) {
        die("a model of bytes, a text of at least one", "%s: vocabulary %d, text of %d bytes", argv[1], V, n);
    }
    gpt2_build(&model, config, 1, config.T, 0);
    weights_load(&model, &file, 0, 0.0f, &rng);
    int* tokens = (int*)alloc_zeroed((size_t)t, sizeof(int), "the text");
    for (int i = 0; i < t; i++) { tokens[i] = (unsigned char)argv[2][n - t + i]; }
    gpt2_forward(&model, tokens, NULL, 1, t, 0);
    for (int i = 0; i < t; i++) { // without the padded columns
        memmove(model.logits + (size_t)i * V, model.logits + (size_t)i * config.Vp, (size_t)V * sizeof(float));
    }
    size_t shape[2] = {(size_t)t, (size_t)V};
    SafeTensor logits = safe_tensor("", "logits", "F32", 2, shape, model.logits);
    safetensors_save(argv[3], &logits, 1, "\"format\":\"dynmoe-logits 1\"");
    printf("%s: logits of %d tokens, vocabulary %d\n", argv[3], t, V);
    free(tokens);
    gpt2_free(&model);
    safetensors_close(&file);
    return 0;
}
