// Products of a weight (O, K) with a few rows, as a segment of dynamic evaluation has them. Memory bounds them: each reads
// or writes the weight once, from front to back. T rows, at most 8.

#include <cstring>
#include "rows.h"

constexpr int64_t lanes = 16, most = 8;

template <int T> struct Along {
    static void run(int64_t O, int64_t K, const float *x, const float *w, float *out) {
        const int64_t whole = K / lanes * lanes, rest = K - whole;
        float last[T][lanes] = {};                           // what is left of x, filled up with zeros
        for (int t = 0; t < T; t++) memcpy(last[t], x + t * K + whole, rest * sizeof(float));
        #pragma omp parallel for if (O * K > 1 << 16)
        for (int64_t o = 0; o < O; o++) {
            const float *v = w + o * K;
            float sums[T][lanes] = {}, end[lanes] = {};      // sums in registers: a weight is loaded once
            for (int64_t k = 0; k < whole; k += lanes)
                for (int t = 0; t < T; t++)
                    #pragma omp simd
                    for (int64_t l = 0; l < lanes; l++) sums[t][l] += x[t * K + k + l] * v[k + l];
            memcpy(end, v + whole, rest * sizeof(float));
            for (int t = 0; t < T; t++) {
                #pragma omp simd
                for (int64_t l = 0; l < lanes; l++) sums[t][l] += last[t][l] * end[l];
                for (int64_t half = lanes / 2; half; half /= 2)
                    for (int64_t l = 0; l < half; l++) sums[t][l] += sums[t][l + half];
                out[t * O + o] = sums[t][0];
            }
        }
    }
};

// out (T, O) = x (T, K) times the transpose of w (O, K).
extern "C" void along(int64_t rows, int64_t O, int64_t K, const float *x, const float *w, float *out) {
    call<Along, most>(rows, O, K, x, w, out);
}

template <int T> struct Across {
    static void run(int64_t O, int64_t K, const float *x, const float *w, float *out, int64_t threads) {
        constexpr int64_t at_once = 8;                       // rows of the weight: sums are seldom loaded and stored
        const int64_t block = ((K + threads - 1) / threads + lanes - 1) / lanes * lanes;
        #pragma omp parallel for if (O * K > 1 << 16)
        for (int64_t first = 0; first < K; first += block) {
            const int64_t width = first + block < K ? block : K - first;
            for (int t = 0; t < T; t++)
                for (int64_t k = first; k < first + width; k++) out[t * K + k] = 0;
            int64_t o = 0;
            for (; o + at_once <= O; o += at_once)
                for (int t = 0; t < T; t++)                  // the rows come from memory for the first, else from cache
                    add<at_once>(K, width, x + t * O + o, w + o * K + first, out + t * K + first);
            for (; o < O; o++)
                for (int t = 0; t < T; t++) add<1>(K, width, x + t * O + o, w + o * K + first, out + t * K + first);
        }
    }

    template <int R> static void add(int64_t K, int64_t width, const float *x, const float *v, float *out) {
        float f[R];
        for (int r = 0; r < R; r++) f[r] = x[r];
        #pragma omp simd
        for (int64_t k = 0; k < width; k++) {
            float sum = 0;
            for (int r = 0; r < R; r++) sum += f[r] * v[r * K + k];
            out[k] += sum;
        }
    }
};

// out (T, K) = x (T, O) times w (O, K). Each thread has columns of its own: `threads` changes no sum.
extern "C" void across(int64_t rows, int64_t O, int64_t K, const float *x, const float *w, float *out,
                       int64_t threads) {
    call<Across, most>(rows, O, K, x, w, out, threads);
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
    call<Outer, most>(rows, O, K, g, x, out);
}
