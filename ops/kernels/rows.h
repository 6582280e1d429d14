// Loops over the few rows of a segment, whose number is known when they are compiled. T rows.

#pragma once
#include <cstdint>

// `call<F, T>(rows, …)` runs F<rows>, for rows from 1 to T.
template <template <int> class F, int T, class... A> static void call(int64_t rows, A... arguments) {
    if constexpr (T > 1)
        if (rows < T) return call<F, T - 1>(rows, arguments...);
    F<T>::run(arguments...);
}
