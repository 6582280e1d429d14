// Passes over a bfloat16 matrix that torch makes in several: its transpose, and the sums of its columns in float.

#include "numbers.h"

constexpr int64_t tile = 32;        // rows and columns that are turned at a time: both sides stay in the nearest cache
constexpr int64_t strip = 256;      // columns whose sums one thread holds at a time

// from (rows, columns), row after row -> to (columns, rows)
extern "C" void transpose_bfloat16(int64_t rows, int64_t columns, const uint16_t *from, uint16_t *to) {
    #pragma omp parallel for
    for (int64_t left = 0; left < columns; left += tile) {
        int64_t right = left + tile < columns ? left + tile : columns;
        for (int64_t top = 0; top < rows; top += tile) {
            int64_t bottom = top + tile < rows ? top + tile : rows;
            for (int64_t j = left; j < right; j++)
                for (int64_t i = top; i < bottom; i++)
                    to[j * rows + i] = from[i * columns + j];
        }
    }
}

// x (rows, columns) -> sums (columns,). Some rows are added up in float, and those sums in double.
extern "C" void column_sums_bfloat16(int64_t rows, int64_t columns, const bfloat16 *x, float *sums) {
    #pragma omp parallel for
    for (int64_t left = 0; left < columns; left += strip) {
        int64_t width = left + strip < columns ? strip : columns - left;
        double total[strip] = {};
        for (int64_t top = 0; top < rows; top += tile) {
            int64_t bottom = top + tile < rows ? top + tile : rows;
            float some[strip] = {};
            for (int64_t i = top; i < bottom; i++) {
                const bfloat16 *row = x + i * columns + left;
                #pragma omp simd
                for (int64_t j = 0; j < width; j++) some[j] += load(row[j]);
            }
            for (int64_t j = 0; j < width; j++) total[j] += some[j];
        }
        for (int64_t j = 0; j < width; j++) sums[left + j] = (float)total[j];
    }
}
