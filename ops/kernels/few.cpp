// Products of a weight (O, K) with a few rows, as a segment of dynamic evaluation has them. Memory bounds them: each reads
// or writes the weight once, from front to back. T rows, at most 8.

#include <cstdint>

constexpr int64_t most = 8;

// out (T, O) = x (T, K) times the transpose of w (O, K).
extern "C" void along(int64_t rows, int64_t O, int64_t K, const float *x, const float *w, float *out) {
    #pragma omp parallel for if (O * K > 1 << 16)
    for (int64_t o = 0; o < O; o++)
        for (int64_t t = 0; t < rows; t++) {
            float sum = 0;
            #pragma omp simd reduction(+ : sum)
            for (int64_t k = 0; k < K; k++) sum += x[t * K + k] * w[o * K + k];
            out[t * O + o] = sum;
        }
}

// out (T, K) = x (T, O) times w (O, K). Each thread has columns of its own: `threads` changes no sum.
extern "C" void across(int64_t rows, int64_t O, int64_t K, const float *x, const float *w, float *out, int64_t threads) {
    const int64_t block = ((K + threads - 1) / threads + 15) / 16 * 16;
    #pragma omp parallel for if (O * K > 1 << 16)
    for (int64_t first = 0; first < K; first += block) {
        const int64_t width = first + block < K ? block : K - first;
        for (int64_t t = 0; t < rows; t++)
            for (int64_t k = 0; k < width; k++) out[t * K + first + k] = 0;
        int64_t o = 0;
        for (; o + 4 <= O; o += 4)
            for (int64_t t = 0; t < rows; t++) {
                const float *v = w + o * K + first, *f = x + t * O + o;
                const float a = f[0], b = f[1], c = f[2], d = f[3];
                float *to = out + t * K + first;
                #pragma omp simd
                for (int64_t k = 0; k < width; k++)
                    to[k] += a * v[k] + b * v[K + k] + c * v[2 * K + k] + d * v[3 * K + k];
            }
        for (; o < O; o++)
            for (int64_t t = 0; t < rows; t++)
                for (int64_t k = 0; k < width; k++) out[t * K + first + k] += x[t * O + o] * w[o * K + first + k];
    }
}

template <int T>
static void outer_rows(int64_t O, int64_t K, const float *g, const float *x, float *out) {
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

template <int T>
static void outer_of(int64_t rows, int64_t O, int64_t K, const float *g, const float *x, float *out) {
    if constexpr (T > 1)
        if (rows < T) return outer_of<T - 1>(rows, O, K, g, x, out);
    outer_rows<T>(O, K, g, x, out);
}

// out (O, K) = the transpose of g (T, O) times x (T, K).
extern "C" void outer(int64_t rows, int64_t O, int64_t K, const float *g, const float *x, float *out) {
    outer_of<most>(rows, O, K, g, x, out);
}
