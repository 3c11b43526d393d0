// Blocks over candidates and a recursion of them, forward and backward, on the CPU. `trm.kernels.native` says
// what they compute, builds this file and calls it.
//
// A row (one sample: S candidates of width D) fits the second-level cache, a tile of its candidates the first
// or nearly so. Most of the time goes to products of a tile with small weights; `product` keeps their sums in
// registers. All else happens to a tile while it is there.
//
// The gate: with the gate's rows of `up` times -log2(e) and the values' rows times -ln 2, products give g', u'
// such that g u = g' u' and sigmoid(g) = 1 / (1 + 2^g').
//
// Rows share nothing. Their gradients of the weights are added in the order of the rows, so that the same bits
// come out for any number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace {

constexpr long W = 8;     // floats in a vector
constexpr long M = 6;     // rows of a register block: 6 x 2 sums, 2 weights and 1 factor fill 15 of AVX2's 16
constexpr long TILE = 96; // candidates of a tile, a multiple of M
constexpr long PAD = 16;  // floats between the rows of wide buffers, so that a column spreads over the cache
constexpr float EPS = 1e-5f, LN2 = 0.693147181f, LOG2E = 1.44269504f;

#define INLINE inline __attribute__((always_inline))

typedef float V __attribute__((vector_size(32)));
typedef int32_t Bits __attribute__((vector_size(32)));

INLINE V load(const float *p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store(float *p, V v) { std::memcpy(p, &v, sizeof v); }

INLINE float sum(V v) {
    float f[W];
    store(f, v);
    return ((f[0] + f[4]) + (f[2] + f[6])) + ((f[1] + f[5]) + (f[3] + f[7]));
}

// 2^t by a polynomial on [-1/2, 1/2], off by at most 1e-7 of it; t beyond +-126 counts as +-126.
INLINE V power_of_two(V t) {
    t = t < 126.f ? t : V{} + 126.f;
    t = t > -126.f ? t : V{} - 126.f;
    const V magic = V{} + 12582912.f; // 1.5 * 2^23: adding it rounds to a whole number, in the lowest bits
    V whole = t + magic, f = t - (whole - magic);
    V p = f * 0.001327647129f + 0.009675540961f;
    p = p * f + 0.05550713092f;
    p = p * f + 0.2402212024f;
    p = p * f + 0.6931469440f;
    p = p * f + 1.f;
    return (V)((Bits)p + ((Bits)whole << 23));
}

// Calls work(number of vectors, first column) for blocks of MOST vectors, then single ones.
template <long MOST, class Work> INLINE void columns(long cols, Work work) {
    long c = 0;
    for (; c + MOST * W <= cols; c += MOST * W) work(std::integral_constant<long, MOST>(), c);
    for (; c < cols; c += W) work(std::integral_constant<long, 1>(), c);
}

// sums[m][c] += x[m xm + k xk] * w[k wk + W c] over all k < K
template <long ROWS, long C>
INLINE void product(V (&sums)[ROWS][C], const float *x, long xm, long xk, const float *w, long wk, long K) {
    for (long k = 0; k < K; ++k, x += xk, w += wk) {
        V wide[C];
        for (long c = 0; c < C; ++c) wide[c] = load(w + W * c);
        for (long m = 0; m < ROWS; ++m)
            for (long c = 0; c < C; ++c) sums[m][c] += x[m * xm] * wide[c];
    }
}

template <long ROWS, long C, bool ADD>
INLINE void block(float *y, long ym, const float *x, long xm, long xk, const float *w, long wk, long K) {
    V sums[ROWS][C];
    for (long m = 0; m < ROWS; ++m)
        for (long c = 0; c < C; ++c) sums[m][c] = ADD ? load(y + m * ym + W * c) : V{};
    product(sums, x, xm, xk, w, wk, K);
    for (long m = 0; m < ROWS; ++m)
        for (long c = 0; c < C; ++c) store(y + m * ym + W * c, sums[m][c]);
}

// y[rows, cols] = (or +=) x[rows, K] @ w[K, cols]; rows a multiple of M or W, cols of W
template <bool ADD>
INLINE void matmul(float *y, long ym, const float *x, long xm, long xk, const float *w, long wk, long rows, long cols,
                   long K) {
    columns<2>(cols, [=](auto count, long c) {
        constexpr long C = decltype(count)::value;
        long m = 0;
        for (; (rows - m) % M; m += 4) block<4, C, ADD>(y + m * ym + c, ym, x + m * xm, xm, xk, w + c, wk, K);
        for (; m < rows; m += M) block<M, C, ADD>(y + m * ym + c, ym, x + m * xm, xm, xk, w + c, wk, K);
    });
}

// to[c, r] = factor * from[r, c]; rows a multiple of W
INLINE void transpose(float *to, long to_row, const float *from, long from_row, long rows, long cols, float factor) {
    for (long r = 0; r < rows; r += W)
        for (long c = 0; c < cols; ++c) {
            V v;
            for (long l = 0; l < W; ++l) v[l] = from[(r + l) * from_row + c];
            store(to + c * to_row + r, v * factor);
        }
}

// to = a, plus c and b where they are given
INLINE void add(float *to, const float *a, const float *b, const float *c, long size) {
    for (long i = 0; i < size; i += W) {
        V v = load(a + i);
        if (c) v += load(c + i);
        if (b) v += load(b + i);
        store(to + i, v);
    }
}

// y[n, D] = rmsnorm of the vectors that value(t, d) gives; its factors go to scale[n].
template <class Value> INLINE void norm(float *y, float *scale, long n, long D, Value value) {
    for (long t = 0; t < n; ++t) {
        V squares{};
        for (long d = 0; d < D; d += W) {
            V v = value(t, d);
            squares += v * v;
            store(y + t * D + d, v);
        }
        scale[t] = sum(squares);
    }
    for (long t = 0; t < n; ++t) scale[t] = 1.f / std::sqrt(scale[t] / D + EPS);
    for (long t = 0; t < n; ++t)
        for (long d = 0; d < D; d += W) store(y + t * D + d, load(y + t * D + d) * scale[t]);
}

// dx = scale (dy - y mean(dy y)) for y = rmsnorm(x); value(t, d) gives dy.
template <class Value>
INLINE void norm_backward(float *dx, const float *y, const float *scale, long n, long D, Value value) {
    for (long t = 0; t < n; ++t) {
        V products{};
        for (long d = 0; d < D; d += W) {
            V v = value(t, d);
            products += v * load(y + t * D + d);
            store(dx + t * D + d, v);
        }
        float mean = sum(products) / D;
        for (long d = 0; d < D; d += W)
            store(dx + t * D + d, scale[t] * (load(dx + t * D + d) - mean * load(y + t * D + d)));
    }
}

// Memory from the start of a cache line, so that no vector of a table of whole lines lies across two.
struct Memory {
    float *at;
    explicit Memory(long size) : at(static_cast<float *>(::operator new(size * sizeof(float), std::align_val_t(64)))) {}
    ~Memory() { ::operator delete(at, std::align_val_t(64)); }
    Memory(Memory &&other) : at(std::exchange(other.at, nullptr)) {}
    operator float *() const { return at; }
};

// Asks for large pages: touching new memory page by page would take a tenth of a training step.
void large_pages([[maybe_unused]] float *at, [[maybe_unused]] long size) {
#ifdef MADV_HUGEPAGE
    constexpr std::uintptr_t page = 4096;
    std::uintptr_t from = (reinterpret_cast<std::uintptr_t>(at) + page - 1) / page * page;
    std::uintptr_t to = reinterpret_cast<std::uintptr_t>(at + size) / page * page;
    if (from < to) madvise(reinterpret_cast<void *>(from), to - from, MADV_HUGEPAGE);
#endif
}

// A gated unit, its weights as the products want them.
struct Unit {
    long D, I, narrow, wide; // narrow, wide: floats from row to row of buffers for I and 2 I numbers
    Memory up_t;             // [I / W, D, 2 W]: W gates, W values; scaled
    Memory other;            // forward: down [I, D]; backward: up [2 I, D], scaled
    const float *down;       // [D, I]

    Unit(const float *up, const float *down, long D, long I, bool backward)
        : D(D), I(I), narrow(I + PAD), wide(2 * I + PAD), up_t(2 * I * D), other(2 * I * D), down(down) {
        for (long i = 0; i < I; i += W) {
            transpose(up_t + i * 2 * D, 2 * W, up + i * D, D, W, D, -LOG2E);
            transpose(up_t + i * 2 * D + W, 2 * W, up + (I + i) * D, D, W, D, -LN2);
        }
        if (backward)
            for (long i = 0; i < 2 * I * D; ++i) other[i] = (i < I * D ? -LOG2E : -LN2) * up[i];
        else
            transpose(other, D, down, I, D, I, 1.f);
    }

    // y[rows, D] = down (silu(g) u); rows a multiple of M; a is scratch
    void forward(float *y, const float *v, float *a, long rows) const {
        for (long i = 0; i < I; i += W)
            for (long m = 0; m < rows; m += M) {
                V gu[M][2] = {};
                product(gu, v + m * D, D, 1, up_t + i * 2 * D, 2 * W, D);
                for (long r = 0; r < M; ++r)
                    store(a + (m + r) * narrow + i, gu[r][0] * gu[r][1] / (power_of_two(gu[r][0]) + 1.f));
            }
        matmul<false>(y, D, a, narrow, 1, other, D, rows, D, I);
    }

    // dv[rows, D]; the gradients of the first n rows are added to grads: of up, transposed and scaled, [D, 2 I],
    // then of down [D, I]. a and dgu are scratch.
    void backward(float *dv, float *grads, const float *v, const float *dy, float *a, float *dgu, long rows,
                  long n) const {
        matmul<false>(a, narrow, dy, D, 1, down, I, rows, I, D); // a holds its own gradient until it is known
        for (long i = 0; i < I; i += W)
            for (long m = 0; m < rows; m += M) {
                V gu[M][2] = {};
                product(gu, v + m * D, D, 1, up_t + i * 2 * D, 2 * W, D);
                for (long r = 0; r < M; ++r) {
                    float *at = a + (m + r) * narrow + i, *d = dgu + (m + r) * wide + i;
                    V g = gu[r][0], u = gu[r][1];
                    V sigmoid = 1.f / (power_of_two(g) + 1.f), da = load(at) * sigmoid;
                    store(at, g * sigmoid * u);
                    store(d, da * u * (g * (sigmoid * LN2 - LN2) + 1.f));
                    store(d + I, da * g);
                }
            }
        matmul<false>(dv, D, dgu, wide, 1, other, D, rows, D, 2 * I);
        matmul<true>(grads, 2 * I, v, 1, D, dgu, wide, D, 2 * I, n);
        matmul<true>(grads + 2 * I * D, I, dy, 1, D, a, narrow, D, I, n);
    }
};

// Groups of all relations as rows of one table [rows, D], those of a relation from a multiple of M on.
struct Groups {
    std::vector<long> from;       // [R + 1]: first row of a relation
    std::vector<int32_t> row;     // [R, S]: row of a candidate's group
    std::vector<int32_t> members; // [R S]: candidates by group
    std::vector<int32_t> first;   // [rows + 1]: first member of a row
    long S, R, rows = 0;

    Groups(const int32_t *group, long S, long R) : row(R * S), members(R * S), S(S), R(R) {
        for (long r = 0; r < R; ++r) {
            from.push_back(rows);
            for (long s = 0; s < S; ++s) row[r * S + s] = rows + group[r * S + s];
            rows += (*std::max_element(group + r * S, group + (r + 1) * S) + M) / M * M;
        }
        from.push_back(rows);
        first.assign(rows + 2, 0);
        for (int32_t each : row) ++first[each + 2];
        for (long i = 2; i < rows + 2; ++i) first[i] += first[i - 1];
        for (long i = 0; i < R * S; ++i) members[first[row[i] + 1]++] = i % S;
    }

    float size(long i) const { return std::max(1, first[i + 1] - first[i]); }

    // Means (or sums) over members: table[rows, D] from h[S, D]
    void gather(float *table, const float *h, long D, bool mean) const {
        columns<4>(D, [=](auto count, long d) {
            constexpr long C = decltype(count)::value;
            for (long i = 0; i < rows; ++i) {
                V total[C] = {};
                for (long j = first[i]; j < first[i + 1]; ++j)
                    for (long c = 0; c < C; ++c) total[c] += load(h + members[j] * D + d + W * c);
                float factor = mean ? 1.f / size(i) : 1.f;
                for (long c = 0; c < C; ++c) store(table + i * D + d + W * c, total[c] * factor);
            }
        });
    }

    // y[t] = h[t] + the rows of the table that candidate s + t belongs to
    void spread(float *y, const float *h, const float *table, long s, long n, long D) const {
        columns<4>(D, [=](auto count, long d) {
            constexpr long C = decltype(count)::value;
            for (long t = 0; t < n; ++t) {
                V total[C];
                for (long c = 0; c < C; ++c) total[c] = load(h + t * D + d + W * c);
                for (long r = 0; r < R; ++r)
                    for (long c = 0; c < C; ++c) total[c] += load(table + row[r * S + s + t] * D + d + W * c);
                for (long c = 0; c < C; ++c) store(y + t * D + d + W * c, total[c]);
            }
        });
    }
};

// What Python gives: see `Network::forward`.
struct Given {
    const float *y, *z, *x;
    const int32_t *group;
    const float *pool_up, *pool_down, *up, *down;
};

struct Sizes {
    long n, L, B, S, D, R, P, I, threads;
};

// What a thread works with.
struct Scratch {
    Memory means, pooled, x, y, v, a, dgu, scale;
    Scratch(long rows, long D, long I)
        : means(rows * D), pooled(rows * D), x(TILE * D), y(TILE * D), v(TILE * D), a(TILE * (I + PAD)),
          dgu(TILE * (2 * I + PAD)), scale(2 * TILE) {
        std::fill_n(x.at, TILE * D, 0.f); // rows of a tile beyond the candidates are computed with the rest
    }
};

// L blocks; each has a unit for every relation, then the channels'.
struct Network : Sizes {
    const Given given;
    Groups groups;
    std::vector<Unit> units;
    long row, pool, size, save_size; // numbers of a row, weights of a relation and of a block, see forward

    Network(const Given &given, const Sizes &sizes, bool backward)
        : Sizes(sizes), given(given), groups(given.group, S, R), row(S * D), pool(3 * P * D),
          size(R * pool + 3 * I * D), save_size((2 * S * (D + 1) + 15) / 16 * 16) {
        units.reserve(L * (R + 1));
        for (long l = 0; l < L; ++l) {
            for (long r = l * R; r < (l + 1) * R; ++r)
                units.emplace_back(given.pool_up + r * 2 * P * D, given.pool_down + r * D * P, D, P, backward);
            units.emplace_back(given.up + l * 2 * I * D, given.down + l * D * I, D, I, backward);
        }
    }

    // Block l of a row: out[S, D], which may be h. Where it is given, save takes out[S, D], h1[S, D] and the
    // factors of both norms [2, S]; out is the first of these then.
    void forward(long l, float *out, float *save, const float *h, Scratch &my) const {
        const Unit *unit = &units[l * (R + 1)];
        float *x = my.x, *y = my.y;
        groups.gather(my.means, h, D, true);
        for (long r = 0; r < R; ++r)
            for (long i = groups.from[r]; i < groups.from[r + 1]; i += TILE)
                unit[r].forward(my.pooled + i * D, my.means + i * D, my.a, std::min(TILE, groups.from[r + 1] - i));
        for (long s = 0; s < S; s += TILE) {
            long n = std::min(TILE, S - s);
            float *scale1 = save ? save + 2 * S * D + s : my.scale, *scale2 = save ? scale1 + S : my.scale;
            groups.spread(x, h + s * D, my.pooled, s, n, D);
            norm(x, scale1, n, D, [=](long t, long d) { return load(x + t * D + d); });
            if (save) std::copy_n(x, n * D, save + (S + s) * D);
            unit[R].forward(y, x, my.a, (n + M - 1) / M * M);
            norm(out + s * D, scale2, n, D, [=](long t, long d) { return load(x + t * D + d) + load(y + t * D + d); });
        }
    }

    // The gradient of out in dh becomes that of h; those of the weights are added to grads.
    void backward(long l, float *dh, float *grads, const float *save, const float *h, Scratch &my) const {
        const Unit *unit = &units[l * (R + 1)];
        float *x = my.x, *y = my.y, *v = my.v;
        for (long s = 0; s < S; s += TILE) {
            long n = std::min(TILE, S - s);
            float *d = dh + s * D;
            const float *scale = save + 2 * S * D + s;
            std::copy_n(save + (S + s) * D, n * D, x);
            norm_backward(y, save + s * D, scale + S, n, D, [=](long t, long c) { return load(d + t * D + c); });
            unit[R].backward(v, grads + R * pool, x, y, my.a, my.dgu, (n + M - 1) / M * M, n);
            norm_backward(d, x, scale, n, D, [=](long t, long c) { return load(v + t * D + c) + load(y + t * D + c); });
        }
        groups.gather(my.means, h, D, true);
        groups.gather(my.pooled, dh, D, false);
        for (long r = 0; r < R; ++r)
            for (long i = groups.from[r]; i < groups.from[r + 1]; i += TILE) {
                // Rows without members add nothing: their mean and their sum are zero.
                long rows = std::min(TILE, groups.from[r + 1] - i);
                float *sums = my.pooled + i * D;
                unit[r].backward(v, grads + r * pool, my.means + i * D, sums, my.a, my.dgu, rows, rows);
                for (long t = 0; t < rows; ++t)
                    for (long d = 0; d < D; d += W) store(sums + t * D + d, load(v + t * D + d) / groups.size(i + t));
            }
        groups.spread(dh, dh, my.pooled, 0, S, D);
    }

    // n times z = network(z + (y + x)), then y = network(y + z); only y = network(y) where n is 0. All are
    // [B, S, D]. Where it is given, `saved` takes [B, n + 1, L, save_size].
    void forward(float *y_out, float *z_out, float *saved) const {
        const long step = saved ? save_size : 0;
        if (saved) large_pages(saved, B * (n + 1) * L * step);
#pragma omp parallel num_threads(threads)
        {
            Scratch my(groups.rows, D, std::max(P, I));
#pragma omp for schedule(static, 1)
            for (long b = 0; b < B; ++b) {
                const float *y = given.y + b * row, *z = n ? given.z + b * row : nullptr;
                float *save = saved + b * (n + 1) * L * step;
                for (long u = 0; u <= n; ++u) {
                    float *to = (u < n ? z_out : y_out) + b * row;
                    add(to, y, z, u < n ? given.x + b * row : nullptr, row);
                    const float *h = to;
                    for (long l = 0; l < L; ++l, save += step) {
                        float *out = saved ? save : to;
                        forward(l, out, saved ? save : nullptr, h, my);
                        h = out;
                    }
                    (u < n ? z : y) = h;
                }
                if (saved) std::copy_n(y, row, y_out + b * row);
                if (saved && n) std::copy_n(z, row, z_out + b * row);
            }
        }
    }

    // dy, dz and dx become the gradients of y, z and x; those of the weights are added to total[L, size].
    void backward(float *dy, float *dz, float *dx, float *total, const float *dy_out, const float *dz_out,
                  const float *saved) const {
#pragma omp parallel num_threads(threads)
        {
            Scratch my(groups.rows, D, std::max(P, I));
            Memory grads(L * size), sum(row);
#pragma omp for ordered schedule(static, 1)
            for (long b = 0; b < B; ++b) {
                const long at = b * row;
                std::fill_n(grads.at, L * size, 0.f);
                for (long u = n; u >= 0; --u) {
                    const float *save = saved + (b * (n + 1) + u) * L * save_size;
                    const float *z = !n ? nullptr : u ? save - save_size : given.z + at; // before this update
                    float *d = (u < n ? dz : dy) + at;
                    if (u == n) std::copy_n(dy_out + at, row, d);
                    add(sum, given.y + at, z, u < n ? given.x + at : nullptr, row);
                    for (long l = L - 1; l >= 0; --l) {
                        const float *own = save + l * save_size;
                        backward(l, d, grads + l * size, own, l ? own - save_size : sum, my);
                    }
                    if (u < n) {
                        add(dy + at, dy + at, d, nullptr, row);
                        add(dx + at, d, u < n - 1 ? dx + at : nullptr, nullptr, row);
                    } else if (n)
                        add(dz + at, dz_out + at, d, nullptr, row);
                }
#pragma omp ordered
                add(total, total, grads, nullptr, L * size);
            }
        }
    }

    // The gradients of the weights as they were added, in the shapes of the weights
    void give(float *d_pool_up, float *d_pool_down, float *d_up, float *d_down, const float *total) const {
        auto unit = [&](float *up, float *down, long inner) {
            transpose(up, D, total, 2 * inner, D, inner, -LOG2E);
            transpose(up + inner * D, D, total + inner, 2 * inner, D, inner, -LN2);
            std::copy_n(total + 2 * inner * D, inner * D, down);
            total += 3 * inner * D;
        };
        for (long l = 0; l < L; ++l) {
            for (long r = l * R; r < (l + 1) * R; ++r) unit(d_pool_up + r * 2 * P * D, d_pool_down + r * D * P, P);
            unit(d_up + l * 2 * I * D, d_down + l * D * I, I);
        }
    }
};

bool outside(const Given &given, const Sizes &sizes) {
    return std::any_of(given.group, given.group + sizes.R * sizes.S, [&](long g) { return g < 0 || g >= sizes.S; });
}

} // namespace

// See Network::forward and backward. Both return 1, having done nothing, where the number of a group is out of
// range.
extern "C" {

int trm_candidates_forward(const Given *given, const Sizes *sizes, float *y_out, float *z_out, float *saved) {
    if (outside(*given, *sizes)) return 1;
    Network(*given, *sizes, false).forward(y_out, z_out, saved);
    return 0;
}

int trm_candidates_backward(const Given *given, const Sizes *sizes, float *dy, float *dz, float *dx, float *d_pool_up,
                            float *d_pool_down, float *d_up, float *d_down, const float *dy_out, const float *dz_out,
                            const float *saved) {
    if (outside(*given, *sizes)) return 1;
    const Network network(*given, *sizes, true);
    Memory total(network.L * network.size);
    std::fill_n(total.at, network.L * network.size, 0.f);
    network.backward(dy, dz, dx, total, dy_out, dz_out, saved);
    network.give(d_pool_up, d_pool_down, d_up, d_down, total);
    return 0;
}
}
