// The same calls at every step of a window, without going back to Python between them.
//
// A call is of a function of cells.cpp or product.cpp, whose arguments are all of 64 bits, sizes or pointers: an array
// has at each step another place, `stride` bytes farther. Integers and pointers are passed alike on all processors that
// torch runs on, which ctypes relies on too.

#include <cstddef>
#include <cstdint>
#include <utility>

constexpr size_t most = 12;                 // arguments
struct Call { int64_t function, count, first[most], stride[most]; };

template <size_t... i> static void call(int64_t function, const int64_t *values, std::index_sequence<i...>) {
    ((void (*)(decltype((int64_t)i)...))function)(values[i]...);
}

template <size_t n> static void call_with(int64_t count, int64_t function, const int64_t *values) {
    if constexpr (n > 1)
        if (count < (int64_t)n) return call_with<n - 1>(count, function, values);
    call(function, values, std::make_index_sequence<n>());
}

extern "C" void run(const Call *calls, int64_t count, int64_t begin, int64_t end) {
    for (int64_t step = begin; step < end; step++)
        for (const Call *each = calls; each < calls + count; each++) {
            int64_t values[most];
            for (int64_t i = 0; i < each->count; i++) values[i] = each->first[i] + step * each->stride[i];
            call_with<most>(each->count, each->function, values);
        }
}
