// ViT fixtures through the CUDA program: fixture_vit.c with the other include. make fixture-vit builds it.
#define USE_CUDA
#include "fixture_vit.c"
