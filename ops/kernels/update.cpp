// The update of dynamic evaluation in one pass over memory, which is what bounds it:
// w ← w + decay · (trained - w) - rate · gradient. decay and rate: one for each element, or one for all (`alike`).

#include "rows.h"

template <bool alike> static inline float of(const float *values, int64_t j) { return values[alike ? 0 : j]; }

template <bool alike> static void step(int64_t n, float *w, const float *trained, const float *decay,
                                       const float *rate, const float *gradient) {
    #pragma omp parallel for simd if (n > 16384)
    for (int64_t j = 0; j < n; j++)
        w[j] = w[j] + of<alike>(decay, j) * (trained[j] - w[j]) - of<alike>(rate, j) * gradient[j];
}

extern "C" void update(int64_t alike, int64_t n, float *w, const float *trained, const float *decay, const float *rate,
                       const float *gradient) {
    (alike ? step<true> : step<false>)(n, w, trained, decay, rate, gradient);
}

// The gradient (O, K) is the transpose of g (T, O) times x (T, K): it is never written down. So many rows: a segment's
// for each of two uses of the weight, as encoder and decoder.
constexpr int64_t most = 16;

template <bool alike> struct Product {
    template <int T> struct Step {
        static void run(int64_t O, int64_t K, float *w, const float *trained, const float *decay, const float *rate,
                        const float *g, const float *x) {
            #pragma omp parallel for if (O * K > 16384)
            for (int64_t o = 0; o < O; o++) {
                float f[T];
                for (int t = 0; t < T; t++) f[t] = g[t * O + o];
                #pragma omp simd
                for (int64_t k = 0; k < K; k++) {
                    const int64_t j = o * K + k;
                    float gradient = 0;
                    for (int t = 0; t < T; t++) gradient += f[t] * x[t * K + k];
                    w[j] = w[j] + of<alike>(decay, j) * (trained[j] - w[j]) - of<alike>(rate, j) * gradient;
                }
            }
        }
    };
};

extern "C" void update_product(int64_t alike, int64_t rows, int64_t O, int64_t K, float *w, const float *trained,
                               const float *decay, const float *rate, const float *g, const float *x) {
    if (alike) call<Product<true>::Step, most>(rows, O, K, w, trained, decay, rate, g, x);
    else call<Product<false>::Step, most>(rows, O, K, w, trained, decay, rate, g, x);
}
