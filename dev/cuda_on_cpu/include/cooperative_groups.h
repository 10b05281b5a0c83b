// Cooperative groups: the block, the grid (of one block), tiles of up to 32 threads.
#ifndef CUDACPU_GROUPS_H
#define CUDACPU_GROUPS_H
#include "cuda_runtime.h"
namespace cooperative_groups {
struct thread_block {
    void sync(CUDACPU_SITE) const { cudacpu::barrier(0, cudacpu::BARRIER, CUDACPU_HERE); }
    unsigned thread_rank() const { return (unsigned)cudacpu::thread_in_block(); }
    unsigned size() const { return blockDim.x * blockDim.y * blockDim.z; }
    unsigned num_threads() const { return size(); }
    dim3 group_index() const { return blockIdx; }
    dim3 thread_index() const { return threadIdx; }
    dim3 dim_threads() const { return blockDim; }
};
inline thread_block this_thread_block() { return {}; }

struct grid_group {
    void sync(CUDACPU_SITE) const { cudacpu::grid_barrier(CUDACPU_HERE); }
    bool is_valid() const { return true; }
    unsigned long long block_rank() const {
        return blockIdx.x + (unsigned long long)gridDim.x * (blockIdx.y + (unsigned long long)gridDim.y * blockIdx.z);
    }
    unsigned long long num_blocks() const { return (unsigned long long)gridDim.x * gridDim.y * gridDim.z; }
    unsigned long long thread_rank() const { return block_rank() * thread_block().size() + thread_block().thread_rank(); }
    unsigned long long size() const { return num_blocks() * thread_block().size(); }
};
inline grid_group this_grid() { return {}; }

template <unsigned N, class Parent = void> struct thread_block_tile {
    static_assert(N >= 1 && N <= 32 && (N & (N - 1)) == 0, "tiles of more than 32 threads are not emulated");
    thread_block_tile() = default;
    template <class P> thread_block_tile(const thread_block_tile<N, P>&) {}
    static unsigned first() { return (unsigned)cudacpu::lane() & ~(N - 1); } // lane of the warp
    static unsigned mask() { return N == 32 ? 0xffffffffu : ((1u << (N & 31)) - 1) << first(); }
    void sync(CUDACPU_SITE) const { cudacpu::collective(mask(), "tile.sync", NULL, NULL, CUDACPU_HERE); }
    static constexpr unsigned size() { return N; }
    static constexpr unsigned num_threads() { return N; }
    unsigned thread_rank() const { return (unsigned)cudacpu::thread_in_block() % N; }
    unsigned meta_group_rank() const { return (unsigned)cudacpu::thread_in_block() / N; }
    unsigned meta_group_size() const { return (thread_block().size() + N - 1) / N; }
    template <class T> T shfl(T v, int from, CUDACPU_SITE) const { return __shfl_sync(mask(), v, from, N, CUDACPU_HERE); }
    template <class T> T shfl_xor(T v, int with, CUDACPU_SITE) const { return __shfl_xor_sync(mask(), v, with, N, CUDACPU_HERE); }
    template <class T> T shfl_up(T v, unsigned d, CUDACPU_SITE) const { return __shfl_up_sync(mask(), v, d, N, CUDACPU_HERE); }
    template <class T> T shfl_down(T v, unsigned d, CUDACPU_SITE) const { return __shfl_down_sync(mask(), v, d, N, CUDACPU_HERE); }
    int any(int p, CUDACPU_SITE) const { return __any_sync(mask(), p, CUDACPU_HERE); }
    int all(int p, CUDACPU_SITE) const { return __all_sync(mask(), p, CUDACPU_HERE); }
    unsigned ballot(int p, CUDACPU_SITE) const { return __ballot_sync(mask(), p, CUDACPU_HERE) >> first(); }
};
template <unsigned N, class P> inline thread_block_tile<N, P> tiled_partition(const P&) { return {}; }

template <class T> struct plus { T operator()(T a, T b) const { return a + b; } };
template <class T> struct less { T operator()(T a, T b) const { return b < a ? b : a; } };
template <class T> struct greater { T operator()(T a, T b) const { return a < b ? b : a; } };
template <class T> struct bit_and { T operator()(T a, T b) const { return a & b; } };
template <class T> struct bit_or { T operator()(T a, T b) const { return a | b; } };
template <class T> struct bit_xor { T operator()(T a, T b) const { return a ^ b; } };
template <unsigned N, class P, class T, class Op>
inline T reduce(const thread_block_tile<N, P>& tile, T v, Op, CUDACPU_SITE) {
    return cudacpu::reduce<Op>(tile.mask(), v, "cg::reduce", CUDACPU_HERE);
}
template <class Group> inline void sync(const Group& group, CUDACPU_SITE) { group.sync(CUDACPU_HERE); }
}
#endif
