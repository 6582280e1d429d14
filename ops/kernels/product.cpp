// A few rows times a matrix that is used many times: x (B, K) times the transpose of w (O, K), w packed beforehand.
//
// In a recurrence B is a batch's few columns and w a recurrent weight of some megabytes that is read from the cache at
// every step. Packed in panels of `wide` outputs, it is read once from front to back; a tile of up to `high` rows of x
// by one panel stays in registers from the first k to the last. Vectors are the compiler's own: no intrinsics.

//
// In bfloat16 both are widened to float, exactly; sums are rounded once, at the end.

#include <cstdlib>
#include "numbers.h"

#if defined(__AVX512F__)
constexpr int64_t lanes = 16, high = 12;    // 24 of 32 registers hold sums
#elif defined(__AVX2__)
constexpr int64_t lanes = 8, high = 6;      // 12 of 16
#else
constexpr int64_t lanes = 4, high = 6;
#endif
constexpr int64_t wide = 2 * lanes;
typedef float vector __attribute__((vector_size(4 * lanes), aligned(4)));

static inline void store_all(float *to, const vector *sums, int64_t n) { memcpy(to, sums, 4 * n); }
static inline void store_all(bfloat16 *to, const vector *sums, int64_t n) {
    float all[wide];
    memcpy(all, sums, sizeof all);
    for (int64_t j = 0; j < n; j++) store(to[j], all[j]);
}

template <int rows, class P>
static void tile(int64_t K, const float *x, const float *panel, P *out, int64_t O, int64_t outputs_left) {
    vector sums[rows][2] = {};
    for (int64_t k = 0; k < K; k++, panel += wide) {
        vector left = *(const vector *)panel, right = *(const vector *)(panel + lanes);
        __builtin_prefetch(panel + 16 * wide);
        __builtin_prefetch(panel + 16 * wide + lanes);
        #pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            sums[r][0] += left * x[r * K + k];
            sums[r][1] += right * x[r * K + k];
        }
    }
    for (int r = 0; r < rows; r++)
        store_all(out + r * O, sums[r], outputs_left < wide ? outputs_left : wide);
}

template <int rows, class P>
static void tile_of(int64_t height, int64_t K, const float *x, const float *panel, P *out, int64_t O, int64_t left) {
    if constexpr (rows > 1)
        if (height < rows) return tile_of<rows - 1, P>(height, K, x, panel, out, O, left);
    tile<rows, P>(K, x, panel, out, O, left);
}

extern "C" int64_t panel_width() { return wide; }

// w[o][k] lies at w + o * o_stride + k * k_stride; panels (ceil(O / wide), K, wide), the last filled up with zeros.
template <class P>
static void pack_any(int64_t O, int64_t K, const P *w, int64_t o_stride, int64_t k_stride, float *panels) {
    #pragma omp parallel for
    for (int64_t first = 0; first < O; first += wide)
        for (int64_t k = 0; k < K; k++)
            for (int64_t j = 0; j < wide; j++)
                panels[first * K + k * wide + j] = first + j < O ? load(w[(first + j) * o_stride + k * k_stride]) : 0.f;
}

template <class P>
static void product_any(int64_t B, int64_t O, int64_t K, const float *x, const float *panels, P *out) {
    int64_t blocks = (B + high - 1) / high;     // of rows, as equal as can be
    #pragma omp parallel for if (B * O * K > 1 << 18)
    for (int64_t first = 0; first < O; first += wide)
        for (int64_t i = 0; i < blocks; i++) {
            int64_t b = B * i / blocks, end = B * (i + 1) / blocks;
            tile_of<high, P>(end - b, K, x + b * K, panels + first * K, out + b * O + first, O, O - first);
        }
}

extern "C" void pack_float32(int64_t O, int64_t K, const float *w, int64_t o_stride, int64_t k_stride, float *panels) {
    pack_any(O, K, w, o_stride, k_stride, panels);
}

extern "C" void pack_bfloat16(int64_t O, int64_t K, const bfloat16 *w, int64_t o_stride, int64_t k_stride,
                              float *panels) {
    pack_any(O, K, w, o_stride, k_stride, panels);
}

extern "C" void product_float32(int64_t B, int64_t O, int64_t K, const float *x, const float *panels, float *out) {
    product_any(B, O, K, x, panels, out);
}

extern "C" void product_bfloat16(int64_t B, int64_t O, int64_t K, const bfloat16 *x, const float *panels,
                                 bfloat16 *out) {
    float *wider = (float *)malloc(4 * B * K);
    for (int64_t i = 0; i < B * K; i++) wider[i] = load(x[i]);
    product_any(B, O, K, wider, panels, out);
    free(wider);
}
