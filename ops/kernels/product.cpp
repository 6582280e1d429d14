// A few rows times a matrix that is used many times: x (B, K) times the transpose of w (O, K), w packed beforehand.
//
// In a recurrence B is a batch's few columns and w a recurrent weight of some megabytes that is read from the cache at
// every step. Packed in panels of `wide` outputs, it is read once from front to back; a tile of up to `high` rows of x
// by one panel stays in registers from the first k to the last. Vectors are the compiler's own: no intrinsics.

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int64_t lanes = 16, high = 12;    // 24 of 32 registers hold sums
#elif defined(__AVX2__)
constexpr int64_t lanes = 8, high = 6;      // 12 of 16
#else
constexpr int64_t lanes = 4, high = 6;
#endif
constexpr int64_t wide = 2 * lanes;
typedef float vector __attribute__((vector_size(4 * lanes), aligned(4)));

template <int rows>
static void tile(int64_t K, const float *x, const float *panel, float *out, int64_t O, int64_t outputs_left) {
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
        memcpy(out + r * O, sums[r], 4 * (outputs_left < wide ? outputs_left : wide));
}

template <int rows>
static void tile_of(int64_t height, int64_t K, const float *x, const float *panel, float *out, int64_t O, int64_t left) {
    if constexpr (rows > 1)
        if (height < rows) return tile_of<rows - 1>(height, K, x, panel, out, O, left);
    tile<rows>(K, x, panel, out, O, left);
}

extern "C" int64_t panel_width() { return wide; }

// w[o][k] lies at w + o * o_stride + k * k_stride; panels (ceil(O / wide), K, wide), the last filled up with zeros.
extern "C" void pack(int64_t O, int64_t K, const float *w, int64_t o_stride, int64_t k_stride, float *panels) {
    #pragma omp parallel for
    for (int64_t first = 0; first < O; first += wide)
        for (int64_t k = 0; k < K; k++)
            for (int64_t j = 0; j < wide; j++)
                panels[first * K + k * wide + j] = first + j < O ? w[(first + j) * o_stride + k * k_stride] : 0.f;
}

extern "C" void product(int64_t B, int64_t O, int64_t K, const float *x, const float *panels, float *out) {
    int64_t blocks = (B + high - 1) / high;     // of rows, as equal as can be
    #pragma omp parallel for
    for (int64_t first = 0; first < O; first += wide)
        for (int64_t i = 0; i < blocks; i++) {
            int64_t b = B * i / blocks, end = B * (i + 1) / blocks;
            tile_of<high>(end - b, K, x + b * K, panels + first * K, out + b * O + first, O, O - first);
        }
}
