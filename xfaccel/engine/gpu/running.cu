// The running sums of the scan engine's states on the GPU: what each part of a sequence begins with.
//
// A thread goes through the parts of one leading entry with one number of their states, so that the order of
// a sum does not depend on the grid, and neighbouring threads read and write neighbouring numbers. `begin`
// gets the sums over the states before part `skip`, before the part after it, and so on to the end.
//
// -DXF_EXPONENT=0|1: whether the last number of a state is the exponent that the others are still to be
// multiplied by, as those of given features have it in scan.cu.
#include "scan.cuh"

constexpr int THREADS = 128;
constexpr int AHEAD = 8;  // parts that are read before the first of them is added

extern "C" __global__ void __launch_bounds__(THREADS) running(
    const real* states, real* begin, const i64 parts, const i64 skip, const i64 numbers) {
    const i64 blocks = (numbers + THREADS - 1) / THREADS, entry = blockIdx.x / blocks;
    const i64 number = blockIdx.x % blocks * THREADS + threadIdx.x;
    if (number >= numbers) return;
    states += entry * parts * numbers;
    begin += entry * (parts - skip + 1) * numbers + number;
    real sum = 0;
#if XF_EXPONENT
    const bool is_exponent = number == numbers - 1;
    real top = minus_infinity();
#endif
    const auto write = [&] {
#if XF_EXPONENT
        *begin = is_exponent ? top : sum;
#else
        *begin = sum;
#endif
        begin += numbers;
    };
    for (i64 first = 0; first < parts; first += AHEAD) {
        real own[AHEAD];
#if XF_EXPONENT
        real exponents[AHEAD];
#endif
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const real* const state = states + min(first + i, parts - 1) * numbers;
            own[i] = state[number];
#if XF_EXPONENT
            exponents[i] = state[numbers - 1];
#endif
        }
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            if (first + i >= parts) break;
            if (first + i >= skip) write();
#if XF_EXPONENT
            const real most = largest(top, exponents[i]);
            if (!is_exponent) sum = sum * below(top, most) + own[i] * below(exponents[i], most);
            top = most;
#else
            sum += own[i];
#endif
        }
    }
    write();
}
