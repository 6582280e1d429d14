// The update of dynamic evaluation in one pass over memory, which is what bounds it.

#include <cstdint>

// w ← w + decay · (trained - w) - rate · gradient, n elements each.
extern "C" void update(int64_t n, float *w, const float *trained, const float *decay, const float *gradient,
                       const float *rate) {
    #pragma omp parallel for simd if (n > 16384)
    for (int64_t j = 0; j < n; j++) w[j] = w[j] + decay[j] * (trained[j] - w[j]) - rate[j] * gradient[j];
}

// The same with one decay and one rate for all.
extern "C" void update_alike(int64_t n, float *w, const float *trained, const float *decay, const float *gradient,
                             const float *rate) {
    const float d = *decay, r = *rate;
    #pragma omp parallel for simd if (n > 16384)
    for (int64_t j = 0; j < n; j++) w[j] = w[j] + d * (trained[j] - w[j]) - r * gradient[j];
}
