// What a CUDA program is compared with: the C program, or what REFERENCE names, in namespace ref, beside the system's headers.
#define TESTING
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <glob.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef USE_BLAS
#include <cblas.h>
#undef I
#endif
namespace ref {
#include REFERENCE
}
#undef DENSE_MEMORY
#undef LAYER_MEMORY
#undef GATE_MEMORY
#undef MODEL_MEMORY
#undef BACKWARD_MEMORY
#undef MODEL_TENSORS
#undef BLOCK_TENSORS
#undef MAX_TENSORS
#undef FLAGS
