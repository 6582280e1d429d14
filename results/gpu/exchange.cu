// Three ways for the blocks of a persistent recurrence to show each other their states, to be timed: `steps` times, each
// block writes its part of `words` numbers, and then reads and adds up all of them. No block waits for ever: whoever waits too long
// sets `failed`, and everybody leaves. All blocks must be resident at once, which one block to an SM is.

__device__ inline int fresh(const int* at) {
    int value;
    asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
    return value;
}

__device__ inline bool wait(const int* at, int least, int* failed) {
    for (int tries = 0; fresh(at) < least; ++tries)
        if (tries > 20000000 || ((tries & 1023) == 1023 && fresh(failed))) {
            atomicExch(failed, 1);
            return false;
        }
    return true;
}

__device__ inline void write_part(int* row, int words, int step) {
    const int part = (words + gridDim.x - 1) / gridDim.x, first = part * blockIdx.x;
    for (int i = first + threadIdx.x; i < first + part && i < words; i += blockDim.x) __stcg(row + i, step);
}

__device__ inline int read_all(const int* row, int words) {
    int sum = 0;
    for (int i = threadIdx.x; i < words; i += blockDim.x) sum += __ldcg(row + i);
    return sum;
}

// One counter that every block adds to.
extern "C" __global__ void by_barrier(int* data, int* flags, int* failed, int* sums, int words,
                                      int steps) {
    __shared__ int stop;
    if (threadIdx.x == 0) stop = 0;
    int sum = 0;
    for (int step = 1; step <= steps; ++step) {
        write_part(data + (long long)step * words, words, step);
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) {
            atomicAdd(flags, 1);
            if (!wait(flags, step * gridDim.x, failed)) stop = 1;
            __threadfence();
        }
        __syncthreads();
        if (stop) return;
        sum += read_all(data + (long long)step * words, words);
    }
    atomicAdd(sums + blockIdx.x, sum);
}

// A flag of its own for every block, and a thread for every flag.
extern "C" __global__ void by_flags(int* data, int* flags, int* failed, int* sums, int words,
                                      int steps) {
    int sum = 0;
    for (int step = 1; step <= steps; ++step) {
        write_part(data + (long long)step * words, words, step);
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) atomicExch(flags + blockIdx.x, step);
        bool good = threadIdx.x >= gridDim.x || wait(flags + threadIdx.x, step, failed);
        __threadfence();
        if (__syncthreads_or(!good)) return;
        sum += read_all(data + (long long)step * words, words);
    }
    atomicAdd(sums + blockIdx.x, sum);
}

// No flags: what is not written yet can be told from what is.
extern "C" __global__ void by_data(int* data, int* flags, int* failed, int* sums, int words,
                                      int steps) {
    int sum = 0;
    for (int step = 1; step <= steps; ++step) {
        int* row = data + (long long)step * words;
        write_part(row, words, step);
        bool good = true;
        for (int i = threadIdx.x; good && i < words; i += blockDim.x) {
            good = wait(row + i, 0, failed);
            sum += fresh(row + i);
        }
        if (__syncthreads_or(!good)) return;
    }
    atomicAdd(sums + blockIdx.x, sum);
}
