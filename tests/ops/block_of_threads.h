// Enough of CUDA to run a kernel on a CPU: a block is as many threads, one block after another.
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>
#define __device__
#define __global__
#define __shared__ static
struct Index { unsigned x; };
static thread_local Index threadIdx;
static Index blockIdx, blockDim;
static std::unique_ptr<std::barrier<>> block;
static void __syncthreads() { block->arrive_and_wait(); }
static unsigned __float_as_uint(float x) { unsigned bits; std::memcpy(&bits, &x, 4); return bits; }

template <class Kernel, class... Arguments>
static void launch(unsigned blocks, unsigned threads, Kernel kernel, Arguments... arguments) {
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
        block = std::make_unique<std::barrier<>>(threads);
        std::vector<std::thread> running;
        for (unsigned i = 0; i < threads; ++i) running.emplace_back([=] {
            threadIdx.x = i;
            kernel(arguments...);
            block->arrive_and_drop();
        });
        for (auto& thread : running) thread.join();
    }
}
