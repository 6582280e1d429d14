// Products of a weight (O, K) with a few rows, as a segment of dynamic evaluation has them. Memory bounds them: each reads
// or writes the weight once, from front to back. T rows, at most 8.

#include <cstdint>

constexpr int64_t most = 8;

// The rows are known when it is compiled: `call<F>(rows, …)` runs F<rows>.
template <template <int> class F, int T = most, class... A> static void call(int64_t rows, A... arguments) {
    if constexpr (T > 1)
        if (rows < T) return call<F, T - 1>(rows, arguments...);
    F<T>::run(arguments...);
}

template <int T> struct Along {
    static void run(int64_t O, int64_t K, const float *x, const float *w, float *out) {
        constexpr int64_t lanes = 16;
        #pragma omp parallel for if (O * K > 1 << 16)
        for (int64_t o = 0; o < O; o++) {
            const float *v = w + o * K;
            float sums[T][lanes] = {};                       // in registers: an element of the weight is loaded once
            int64_t k = 0;
            for (; k + lanes <= K; k += lanes)
                for (int t = 0; t < T; t++)
                    #pragma omp simd
                    for (int64_t l = 0; l < lanes; l++) sums[t][l] += x[t * K + k + l] * v[k + l];
            for (int t = 0; t < T; t++) {
                float sum = 0;
                for (int64_t l = 0; l < lanes; l++) sum += sums[t][l];
                for (int64_t rest = k; rest < K; rest++) sum += x[t * K + rest] * v[rest];
                out[t * O + o] = sum;
            }
        }
    }
};

// out (T, O) = x (T, K) times the transpose of w (O, K).
extern "C" void along(int64_t rows, int64_t O, int64_t K, const float *x, const float *w, float *out) {
    call<Along>(rows, O, K, x, w, out);
}

// out (K) = x (O) times w (O, K). Each thread has columns of its own: `threads` changes no sum.
extern "C" void across(int64_t O, int64_t K, const float *x, const float *w, float *out, int64_t threads) {
    const int64_t block = ((K + threads - 1) / threads + 15) / 16 * 16;
    #pragma omp parallel for if (O * K > 1 << 16)
    for (int64_t first = 0; first < K; first += block) {
        const int64_t width = first + block < K ? block : K - first;
        float *to = out + first;
        for (int64_t k = 0; k < width; k++) to[k] = 0;
        int64_t o = 0;
        for (; o + 8 <= O; o += 8) {
            const float *v = w + o * K + first, *f = x + o;
            #pragma omp simd
            for (int64_t k = 0; k < width; k++)
                to[k] += ((f[0] * v[k] + f[1] * v[K + k]) + (f[2] * v[2 * K + k] + f[3] * v[3 * K + k]))
                       + ((f[4] * v[4 * K + k] + f[5] * v[5 * K + k]) + (f[6] * v[6 * K + k] + f[7] * v[7 * K + k]));
        }
        for (; o < O; o++)
            for (int64_t k = 0; k < width; k++) to[k] += x[o] * w[o * K + first + k];
    }
}

template <int T> struct Outer {
    static void run(int64_t O, int64_t K, const float *g, const float *x, float *out) {
        #pragma omp parallel for if (O * K > 1 << 16)
        for (int64_t o = 0; o < O; o++) {
            float f[T];
            for (int t = 0; t < T; t++) f[t] = g[t * O + o];
            #pragma omp simd
            for (int64_t k = 0; k < K; k++) {
                float sum = 0;
                for (int t = 0; t < T; t++) sum += f[t] * x[t * K + k];
                out[o * K + k] = sum;
            }
        }
    }
};

// out (O, K) = the transpose of g (T, O) times x (T, K).
extern "C" void outer(int64_t rows, int64_t O, int64_t K, const float *g, const float *x, float *out) {
    call<Outer>(rows, O, K, g, x, out);
}
