// The recurrence of a QRNN, c_t = f_t c_{t-1} + (1 - f_t) z_t, and its gradient: a thread to every unit of every column,
// which walks through time. Neighbours in a row are neighbours in memory, so that reads and writes are whole lines.

// f, z and c (steps, units), start (units); all columns' units count as one row.
extern "C" __global__ void pool_forward(const float* f, const float* z, const float* start, float* c, int steps,
                                        int units) {
    const int unit = blockIdx.x * blockDim.x + threadIdx.x;
    if (unit >= units) return;
    float state = start[unit];
    for (long long t = 0, at = unit; t < steps; ++t, at += units) {
        state = f[at] * (state - z[at]) + z[at];
        c[at] = state;
    }
}

// d_c (steps, units): what comes from above. Writes the gradients of f, z and start.
extern "C" __global__ void pool_backward(const float* f, const float* z, const float* start, const float* c,
                                         const float* d_c, float* d_f, float* d_z, float* d_start, int steps,
                                         int units) {
    const int unit = blockIdx.x * blockDim.x + threadIdx.x;
    if (unit >= units) return;
    float gradient = 0.0f;
    for (long long t = steps - 1; t >= 0; --t) {
        const long long at = t * units + unit;
        const float before = t > 0 ? c[at - units] : start[unit];
        gradient += d_c[at];
        d_f[at] = gradient * (before - z[at]);
        d_z[at] = gradient * (1.0f - f[at]);
        gradient *= f[at];
    }
    d_start[unit] = gradient;
}
