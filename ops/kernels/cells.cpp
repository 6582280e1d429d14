// One time step of the recurrent cells, forward and backward: everything but the matrix products, in one pass.
//
// B rows, H hidden units. P is the type that products are made in, float or bfloat16; states and gates are float.
// Gates lie as in torch: an LSTM's i, f, g, o (COUPLED f, g, o) and a GRU's r, z, n, each H wide, side by side in a row.
// The same arithmetic in torch, easier to read, is in tests/ops/steps_in_torch.py. Vectorised by the compiler: no
// intrinsics, any processor.

#include "numbers.h"

static inline float sigmoid(float x) { return 1.f / (1.f + exponential(-x)); }

// Near zero, where the quotient would cancel, its Taylor series.
static inline float hyperbolic_tangent(float x) {
    float s = x * x;
    float near = x + x * s * (-1 / 3.f + s * (2 / 15.f + s * (-17 / 315.f + s * (62 / 2835.f - s * (1382 / 155925.f)))));
    float far = 1.f - 2.f / (exponential(2 * x) + 1.f);
    return fabsf(x) < 0.3f ? near : far;
}

// An LSTM's input gate: its own; that but at most 1 - f; or 1 - f, where the gates are f, g, o alone.
enum Gate { PLAIN, CAPPED, COUPLED };

// x_gates, h_gates (B, 4H), COUPLED (B, 3H), as all gates: the products with the input and with the state before; bias
// (4H,): the sum of all biases. Writes gates (B, 4H) after their nonlinearities, the input gate before it is capped,
// c and out (B, H), and the new state again as P into h.
template <class P, Gate gate>
static void lstm_forward(int64_t B, int64_t H, const P *x_gates, const P *h_gates, const float *bias, float *gates,
                         const float *c_before, float *c, float *out, P *h) {
    const int64_t F = gate == COUPLED ? 0 : H, G = F + H, O = G + H, width = O + H;     // where f, g and o begin
    #pragma omp parallel for if (B * H > 4096)
    for (int64_t b = 0; b < B; b++) {
        const P *x = x_gates + b * width, *r = h_gates + b * width;
        float *a = gates + b * width;
        #pragma omp simd
        for (int64_t j = 0; j < H; j++) {
            float f = sigmoid(load(x[F + j]) + load(r[F + j]) + bias[F + j]);
            float i = 1 - f;
            if (gate != COUPLED) {
                float own = sigmoid(load(x[j]) + load(r[j]) + bias[j]);
                a[j] = own;
                i = gate == CAPPED && own >= i ? i : own;
            }
            float g = hyperbolic_tangent(load(x[G + j]) + load(r[G + j]) + bias[G + j]);
            float o = sigmoid(load(x[O + j]) + load(r[O + j]) + bias[O + j]);
            float cell = f * c_before[b * H + j] + i * g;
            float state = o * hyperbolic_tangent(cell);
            a[F + j] = f; a[G + j] = g; a[O + j] = o;
            c[b * H + j] = cell;
            out[b * H + j] = state;
            store(h[b * H + j], state);
        }
    }
}

// d_out, d_h (B, H): the gradient of this step's output, from above and from the step after. dc (B, H): the cell's, on
// return that of the cell before. Writes d_gates (B, 4H), which may be `gates` itself.
template <class P, Gate gate>
static void lstm_backward(int64_t B, int64_t H, const float *d_out, const P *d_h, float *dc, const float *gates,
                          const float *c_before, const float *c, P *d_gates) {
    const int64_t F = gate == COUPLED ? 0 : H, G = F + H, O = G + H, width = O + H;
    #pragma omp parallel for if (B * H > 4096)
    for (int64_t b = 0; b < B; b++) {
        const float *a = gates + b * width;
        P *d = d_gates + b * width;
        #pragma omp simd
        for (int64_t j = 0; j < H; j++) {
            float own = a[j], f = a[F + j], g = a[G + j], o = a[O + j];
            bool capped = gate == COUPLED || (gate == CAPPED && own >= 1 - f);      // then the input gate is 1 - f
            float i = capped ? 1 - f : own;
            float t = hyperbolic_tangent(c[b * H + j]);
            float dh = d_out[b * H + j] + load(d_h[b * H + j]);
            float d_cell = dc[b * H + j] + dh * o * (1 - t * t);
            if (gate != COUPLED) store(d[j], capped ? 0.f : d_cell * g * i * (1 - i));
            store(d[F + j], d_cell * (capped ? c_before[b * H + j] - g : c_before[b * H + j]) * f * (1 - f));
            store(d[G + j], d_cell * i * (1 - g * g));
            store(d[O + j], dh * t * o * (1 - o));
            dc[b * H + j] = d_cell * f;
        }
    }
}

// x_gates, h_gates (B, 3H), x_bias, h_bias (3H,). Writes gates (B, 4H): r, z, n, and the state's part of n before r.
template <class P>
static void gru_forward(int64_t B, int64_t H, const P *x_gates, const P *h_gates, const float *x_bias,
                        const float *h_bias, float *gates, const float *before, float *out, P *h) {
    #pragma omp parallel for if (B * H > 4096)
    for (int64_t b = 0; b < B; b++) {
        const P *x = x_gates + b * 3 * H, *y = h_gates + b * 3 * H;
        float *a = gates + b * 4 * H;
        #pragma omp simd
        for (int64_t j = 0; j < H; j++) {
            float r = sigmoid(load(x[j]) + load(y[j]) + x_bias[j] + h_bias[j]);
            float z = sigmoid(load(x[H + j]) + load(y[H + j]) + x_bias[H + j] + h_bias[H + j]);
            float m = load(y[2 * H + j]) + h_bias[2 * H + j];
            float n = hyperbolic_tangent(load(x[2 * H + j]) + x_bias[2 * H + j] + r * m);
            float state = n + z * (before[b * H + j] - n);
            a[j] = r; a[H + j] = z; a[2 * H + j] = n; a[3 * H + j] = m;
            out[b * H + j] = state;
            store(h[b * H + j], state);
        }
    }
}

// carry (B, H): the gradient that reaches this step's state past the products of the step after; on return, the same
// for the step before. Writes the gradients of both products, dx_gates and dh_gates (B, 3H).
template <class P>
static void gru_backward(int64_t B, int64_t H, const float *d_out, const P *d_h, float *carry, const float *gates,
                         const float *before, P *dx_gates, P *dh_gates) {
    #pragma omp parallel for if (B * H > 4096)
    for (int64_t b = 0; b < B; b++) {
        const float *a = gates + b * 4 * H;
        P *dx = dx_gates + b * 3 * H, *dy = dh_gates + b * 3 * H;
        #pragma omp simd
        for (int64_t j = 0; j < H; j++) {
            float r = a[j], z = a[H + j], n = a[2 * H + j], m = a[3 * H + j];
            float dh = d_out[b * H + j] + load(d_h[b * H + j]) + carry[b * H + j];
            float dn = dh * (1 - z) * (1 - n * n);
            float dr = dn * m * r * (1 - r);
            float dz = dh * (before[b * H + j] - n) * z * (1 - z);
            store(dx[j], dr); store(dx[H + j], dz); store(dx[2 * H + j], dn);
            store(dy[j], dr); store(dy[H + j], dz); store(dy[2 * H + j], dn * r);
            carry[b * H + j] = dh * z;
        }
    }
}

// One depth of a recurrent highway network. x_gates (B, 2H) and mask (B, H) may be null. Writes gates (B, 2H): h and t
// after their nonlinearities; the state after, and that times the mask as P, which the next product takes.
template <class P>
static void highway_forward(int64_t B, int64_t H, const P *x_gates, const P *h_gates, const float *bias,
                            const float *mask, float *gates, const float *before, float *after, P *state) {
    #pragma omp parallel for if (B * H > 4096)
    for (int64_t b = 0; b < B; b++) {
        const P *x = x_gates ? x_gates + b * 2 * H : nullptr, *y = h_gates + b * 2 * H;
        float *a = gates + b * 2 * H;
        #pragma omp simd
        for (int64_t j = 0; j < H; j++) {
            float h = hyperbolic_tangent(load(y[j]) + bias[j] + (x ? load(x[j]) : 0.f));
            float t = sigmoid(load(y[H + j]) + bias[H + j] + (x ? load(x[H + j]) : 0.f));
            float s = before[b * H + j] + (h - before[b * H + j]) * t;
            a[j] = h; a[H + j] = t;
            after[b * H + j] = s;
            store(state[b * H + j], mask ? s * mask[b * H + j] : s);
        }
    }
}

// d_out (B, H), from above, and mask may be null; d_state: from the product of the depth after. carry: the gradient
// that reaches the state after past that product; on return, the same for the state before. Writes d_gates (B, 2H).
template <class P>
static void highway_backward(int64_t B, int64_t H, const float *d_out, const P *d_state, const float *mask,
                             const float *gates, const float *before, float *carry, P *d_gates) {
    #pragma omp parallel for if (B * H > 4096)
    for (int64_t b = 0; b < B; b++) {
        const float *a = gates + b * 2 * H;
        P *d = d_gates + b * 2 * H;
        #pragma omp simd
        for (int64_t j = 0; j < H; j++) {
            int64_t at = b * H + j;
            float h = a[j], t = a[H + j], ds = load(d_state[at]) * (mask ? mask[at] : 1.f);
            ds += carry[at] + (d_out ? d_out[at] : 0.f);
            store(d[j], ds * t * (1 - h * h));
            store(d[H + j], ds * (h - before[at]) * t * (1 - t));
            carry[at] = ds * (1 - t);
        }
    }
}

// A round of a Mogrifier, all (B, W) but bias (W,): gate = 2σ(products + bias), after = gate · before, state the same as P.
template <class P>
static void scaling_forward(int64_t B, int64_t W, const P *products, const float *bias, float *gate,
                            const float *before, float *after, P *state) {
    #pragma omp parallel for if (B * W > 4096)
    for (int64_t b = 0; b < B; b++)
        #pragma omp simd
        for (int64_t j = 0; j < W; j++) {
            int64_t at = b * W + j;
            float g = 2 * sigmoid(load(products[at]) + bias[j]), scaled = g * before[at];
            gate[at] = g;
            after[at] = scaled;
            store(state[at], scaled);
        }
}

// d_state may be null. carry: the gradient of `after` but for that part; on return that of `before`.
template <class P>
static void scaling_backward(int64_t B, int64_t W, const P *d_state, const float *gate, const float *before,
                             float *carry, P *d_products) {
    #pragma omp parallel for if (B * W > 4096)
    for (int64_t b = 0; b < B; b++)
        #pragma omp simd
        for (int64_t j = 0; j < W; j++) {
            int64_t at = b * W + j;
            float total = carry[at] + (d_state ? load(d_state[at]) : 0.f), g = gate[at];
            store(d_products[at], total * before[at] * g * (1 - g / 2));
            carry[at] = total * g;
        }
}

// The gradient that reaches a state: of its output d_out, and of a step that begins with the state times the mask: carry,
// and d_state of the rounds before that step. d_state and mask may be null.
template <class P>
static void state_gradient(int64_t B, int64_t H, const float *d_out, const P *d_state, const float *carry,
                           const float *mask, float *total) {
    #pragma omp parallel for if (B * H > 4096)
    for (int64_t b = 0; b < B; b++)
        #pragma omp simd
        for (int64_t j = 0; j < H; j++) {
            int64_t at = b * H + j;
            float back = carry[at] + (d_state ? load(d_state[at]) : 0.f);
            total[at] = d_out[at] + (mask ? back * mask[at] : back);
        }
}

#define EXPORT_LSTM(P, name, kind, gate) \
extern "C" void kind##_forward_##name(int64_t B, int64_t H, const P *x, const P *r, const float *bias, float *gates, \
        const float *c_before, float *c, float *out, P *h) \
    { lstm_forward<P, gate>(B, H, x, r, bias, gates, c_before, c, out, h); } \
extern "C" void kind##_backward_##name(int64_t B, int64_t H, const float *d_out, const P *d_h, float *dc, \
        const float *gates, const float *c_before, const float *c, P *d_gates) \
    { lstm_backward<P, gate>(B, H, d_out, d_h, dc, gates, c_before, c, d_gates); }

#define EXPORT(P, name) \
EXPORT_LSTM(P, name, lstm, PLAIN) \
EXPORT_LSTM(P, name, capped_lstm, CAPPED) \
EXPORT_LSTM(P, name, coupled_lstm, COUPLED) \
extern "C" void gru_forward_##name(int64_t B, int64_t H, const P *x, const P *y, const float *x_bias, \
        const float *h_bias, float *gates, const float *before, float *out, P *h) \
    { gru_forward(B, H, x, y, x_bias, h_bias, gates, before, out, h); } \
extern "C" void gru_backward_##name(int64_t B, int64_t H, const float *d_out, const P *d_h, float *carry, \
        const float *gates, const float *before, P *dx, P *dy) \
    { gru_backward(B, H, d_out, d_h, carry, gates, before, dx, dy); } \
extern "C" void highway_forward_##name(int64_t B, int64_t H, const P *x, const P *y, const float *bias, \
        const float *mask, float *gates, const float *before, float *after, P *state) \
    { highway_forward(B, H, x, y, bias, mask, gates, before, after, state); } \
extern "C" void highway_backward_##name(int64_t B, int64_t H, const float *d_out, const P *d_state, \
        const float *mask, const float *gates, const float *before, float *carry, P *d_gates) \
    { highway_backward(B, H, d_out, d_state, mask, gates, before, carry, d_gates); } \
extern "C" void scaling_forward_##name(int64_t B, int64_t W, const P *products, const float *bias, float *gate, \
        const float *before, float *after, P *state) \
    { scaling_forward(B, W, products, bias, gate, before, after, state); } \
extern "C" void scaling_backward_##name(int64_t B, int64_t W, const P *d_state, const float *gate, \
        const float *before, float *carry, P *d_products) \
    { scaling_backward(B, W, d_state, gate, before, carry, d_products); } \
extern "C" void state_gradient_##name(int64_t B, int64_t H, const float *d_out, const P *d_state, const float *carry, \
        const float *mask, float *total) \
    { state_gradient(B, H, d_out, d_state, carry, mask, total); }

EXPORT(float, float32)
EXPORT(bfloat16, bfloat16)
