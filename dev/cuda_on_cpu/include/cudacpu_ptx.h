/*
What inline PTX is here. A program keeps each PTX instruction in one small function with two bodies: asm for nvcc, and where
__CUDACPU__ is defined a call of one of these. How fragments lie in registers is as the PTX ISA says, so that a wrong index in the
program shows.
*/
#ifndef CUDACPU_PTX_H
#define CUDACPU_PTX_H
#include "cuda_bf16.h"
namespace cudacpu {
// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32: d = a b + c
struct mma_payload { float* d; const uint32_t *a, *b; const float* c; };
void mma_work(void** payloads, uint32_t arrived);
inline void mma_m16n8k16_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4], CUDACPU_SITE) {
    mma_payload p = {d, a, b, c};
    collective(0xffffffffu, "mma.sync.m16n8k16", &p, mma_work, CUDACPU_HERE);
}

// ldmatrix.sync.aligned.m8n8.x1/x2/x4.shared.b16, with or without .trans: r has n registers, row is this lane's row
struct ldmatrix_payload { uint32_t* r; const void* row; int n; bool transposed; };
void ldmatrix_work(void** payloads, uint32_t arrived);
void ldmatrix_check(const void* row, int n);
inline void ldmatrix(uint32_t* r, const void* row, int n, bool transposed, CUDACPU_SITE) {
    ldmatrix_check(row, n);
    ldmatrix_payload p = {r, row, n, transposed};
    collective(0xffffffffu, "ldmatrix", &p, ldmatrix_work, CUDACPU_HERE);
}

// cp.async.ca/cg, cp.async.commit_group, cp.async.wait_group N. Bytes are copied by the wait: who reads too early reads poison.
void cp_async(void* shared, const void* global, int bytes);
void cp_async_commit();
void cp_async_wait(int groups_under_way);
}
#endif
