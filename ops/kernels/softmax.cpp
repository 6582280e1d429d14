// The softmax over rows of logits: log-probabilities of the targets, and the gradient of minus these by the logits.
//
// N rows, V words. L is the type of the logits, S that of the gradient; all arithmetic is float, sums of many double.
// A row is widened once into a buffer that stays in the core's cache. Vectorised by the compiler: no intrinsics.

#include "numbers.h"

#include <vector>

constexpr int64_t block = 1024;     // numbers that are summed in float before their sum is added in double

// logits (N, V) without their bias (V,), targets (N,). Writes logprobs (N,), at_target (N,): the gradient at the target,
// and slope (N, V): that elsewhere, zero at the target; it may be the logits themselves, or null if it is not wanted.
template <class L, class S>
static void softmax(int64_t N, int64_t V, const L *logits, const float *bias, const int64_t *targets, float *logprobs,
                    float *at_target, S *slope) {
    #pragma omp parallel
    {
        std::vector<float> row(V);
        float *z = row.data();
        #pragma omp for
        for (int64_t n = 0; n < N; n++) {
            const L *from = logits + n * V;
            float largest = -INFINITY;
            #pragma omp simd reduction(max : largest)
            for (int64_t v = 0; v < V; v++) {
                z[v] = load(from[v]) + bias[v];
                largest = z[v] > largest ? z[v] : largest;
            }
            float of_target = z[targets[n]] - largest;
            double total = 0;
            for (int64_t first = 0; first < V; first += block) {
                int64_t end = first + block < V ? first + block : V;
                float sum = 0;
                #pragma omp simd reduction(+ : sum)
                for (int64_t v = first; v < end; v++) {
                    z[v] = exponential(z[v] - largest);
                    sum += z[v];
                }
                total += sum;
            }
            float share = (float)(1 / total);
            logprobs[n] = of_target - (float)std::log(total);
            at_target[n] = z[targets[n]] * share - 1.f;
            if (!slope) continue;
            S *to = slope + n * V;
            #pragma omp simd
            for (int64_t v = 0; v < V; v++) store(to[v], z[v] * share);
            store(to[targets[n]], 0.f);
        }
    }
}

#define EXPORT(L, S, name) \
extern "C" void softmax_##name(int64_t N, int64_t V, const L *logits, const float *bias, const int64_t *targets, \
        float *logprobs, float *at_target, S *slope) \
    { softmax(N, V, logits, bias, targets, logprobs, at_target, slope); }

EXPORT(float, float, float32_float32)
EXPORT(float, bfloat16, float32_bfloat16)
EXPORT(bfloat16, bfloat16, bfloat16_bfloat16)
