// The softmax of rows of logits, one block of threads to a row, a power of two of them (at most 1024).
//
// A row is read twice: once for its largest logit and the sum of exponentials, kept up as one goes along, and once for
// the gradient of -log p(target), which is written in the type that the next products take. The part at the target,
// often nearly all of it, is given apart and in full precision; in the row stands a zero there.

#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif

struct Sum {                                // of exp(x - largest) over some x
    float largest, total;
};

__device__ inline Sum with(Sum sum, float x) {
    if (x > sum.largest) return {x, sum.total * expf(sum.largest - x) + 1.0f};
    return {sum.largest, sum.total + expf(x - sum.largest)};
}

__device__ inline Sum joined(Sum a, Sum b) {
    if (a.total == 0.0f) return b;          // nothing was summed: what there is to see is in the other
    if (b.total == 0.0f) return a;
    float largest = a.largest > b.largest ? a.largest : b.largest;
    return {largest, a.total * expf(a.largest - largest) + b.total * expf(b.largest - largest)};
}

__device__ inline void store(float* at, float value) { *at = value; }

__device__ inline void store(unsigned short* at, float value) {       // bfloat16, rounded to the nearest, ties to even
    unsigned bits = __float_as_uint(value);
    *at = value == value ? (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16 : 0x7fc0u;
}

// logits (rows, words) without their bias (words); targets, logprobs and at_target (rows); slope (rows, words) or null.
template <class T>
__device__ inline void softmax(const float* logits, const float* bias, const long long* targets, float* logprobs,
                               float* at_target, T* slope, int words) {
    __shared__ Sum sums[1024];
    const long long row = blockIdx.x;
    logits += row * words;
    Sum sum = {-INFINITY, 0.0f};
    for (int word = threadIdx.x; word < words; word += blockDim.x) sum = with(sum, logits[word] + bias[word]);
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] = joined(sums[threadIdx.x], sums[threadIdx.x + half]);
        __syncthreads();
    }
    sum = sums[0];
    const int target = (int)targets[row];
    if (threadIdx.x == 0) {
        const float above = logits[target] + bias[target] - sum.largest;
        logprobs[row] = above - logf(sum.total);
        at_target[row] = expf(above) / sum.total - 1.0f;
    }
    if (!slope) return;
    __syncthreads();                        // slope may lie where the logits do: all have read what is not theirs
    slope += row * words;
    for (int word = threadIdx.x; word < words; word += blockDim.x)
        store(slope + word, word == target ? 0.0f : expf(logits[word] + bias[word] - sum.largest) / sum.total);
}

extern "C" __global__ void softmax_float32(const float* logits, const float* bias, const long long* targets,
                                           float* logprobs, float* at_target, float* slope, int words) {
    softmax(logits, bias, targets, logprobs, at_target, slope, words);
}

extern "C" __global__ void softmax_bfloat16(const float* logits, const float* bias, const long long* targets,
                                            float* logprobs, float* at_target, unsigned short* slope, int words) {
    softmax(logits, bias, targets, logprobs, at_target, slope, words);
}
