// Fixtures through the CUDA program: fixture.c with the other include. make fixture-cuda builds it.
#define USE_CUDA
#include "fixture.c"
