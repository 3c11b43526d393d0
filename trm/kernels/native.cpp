// One block of the network over candidates, forward and backward, on the CPU. `trm.kernels.native` says what
// it computes, builds this file and calls it.
//
// A row (one sample: S candidates of width D) fits the second-level cache, a tile of its candidates the
// first. Nearly all the time goes to matrix products of a tile with small weights; `product` holds their
// 12 or 8 sums in registers. Everything else happens to a tile while it is there.
//
// The gate: with the gate's rows of `up` times -log2(e) and the values' rows times -ln 2, products give g', u'
// such that g u = g' u' and sigmoid(g) = 1 / (1 + 2^g').
//
// Rows share nothing. Their weight gradients are added in the order of the rows, so that the same
// numbers come out for any number of threads.

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
constexpr long TILE = 48; // candidates of a tile, a multiple of M
constexpr long PAD = 16;  // floats between the rows of wide buffers, so that a column spreads over the cache
constexpr float EPS = 1e-5f, LN2 = 0.693147181f, LOG2E = 1.44269504f;

typedef float V __attribute__((vector_size(32)));
typedef int32_t N __attribute__((vector_size(32)));

#define INLINE inline __attribute__((always_inline))

INLINE V load(const float *p) { V v; std::memcpy(&v, p, sizeof v); return v; }
INLINE void store(float *p, V v) { std::memcpy(p, &v, sizeof v); }
INLINE float sum(V v) {
    V a = v + __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
    V b = a + __builtin_shufflevector(a, a, 2, 3, 0, 1, 6, 7, 4, 5);
    return b[0] + b[1];
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
    N bits;
    std::memcpy(&bits, &whole, sizeof bits);
    N raised;
    std::memcpy(&raised, &p, sizeof p);
    raised += bits << 23;
    std::memcpy(&p, &raised, sizeof p);
    return p;
}

// Calls work(number of vectors, first column) for blocks of MOST vectors, then single ones.
template <long MOST, class Work>
INLINE void columns(long cols, Work work) {
    long c = 0;
    for (; c + MOST * W <= cols; c += MOST * W) work(std::integral_constant<long, MOST>(), c);
    for (; c < cols; c += W) work(std::integral_constant<long, 1>(), c);
}

// Memory from the start of a cache line, so that no vector of a table of whole lines lies across two.
struct Memory {
    float *at;
    explicit Memory(long size)
        : at(static_cast<float *>(::operator new(size * sizeof(float), std::align_val_t(64)))) {}
    ~Memory() { ::operator delete(at, std::align_val_t(64)); }
    Memory(Memory &&other) : at(std::exchange(other.at, nullptr)) {}
    operator float *() const { return at; }
};

// to[c, r] = factor * from[r, c]; rows a multiple of W
INLINE void transpose(float *to, long to_row, const float *from, long from_row, long rows, long cols, float factor) {
    for (long r = 0; r < rows; r += W)
        for (long c = 0; c < cols; ++c) {
            V v;
            for (long l = 0; l < W; ++l) v[l] = from[(r + l) * from_row + c];
            store(to + c * to_row + r, v * factor);
        }
}

// acc[m][c] += sum over k of x[m xm + k xk] * w[k wk + W c]
template <long R, long C>
INLINE void product(V (&acc)[R][C], const float *x, long xm, long xk, const float *w, long wk, long K) {
    for (long k = 0; k < K; ++k, x += xk, w += wk) {
        V wide[C];
        for (long c = 0; c < C; ++c) wide[c] = load(w + W * c);
        for (long m = 0; m < R; ++m)
            for (long c = 0; c < C; ++c) acc[m][c] += x[m * xm] * wide[c];
    }
}

template <long R, long C, bool ADD>
INLINE void matmul_block(float *y, long ym, const float *x, long xm, long xk, const float *w, long wk, long K) {
    V acc[R][C];
    for (long m = 0; m < R; ++m)
        for (long c = 0; c < C; ++c) acc[m][c] = ADD ? load(y + m * ym + W * c) : V{};
    product<R, C>(acc, x, xm, xk, w, wk, K);
    for (long m = 0; m < R; ++m)
        for (long c = 0; c < C; ++c) store(y + m * ym + W * c, acc[m][c]);
}

// y[rows, cols] = x @ w; rows a multiple of M, cols of W
INLINE void matmul(float *y, long ym, const float *x, long xm, const float *w, long wk, long rows, long cols, long K) {
    columns<2>(cols, [=](auto count, long c) {
        constexpr long C = decltype(count)::value;
        for (long m = 0; m < rows; m += M) matmul_block<M, C, false>(y + m * ym + c, ym, x + m * xm, xm, 1, w + c, wk, K);
    });
}

// y[rows, cols] += x[n, rows]^T @ w[n, cols]; rows and cols multiples of W
INLINE void add_outer(float *y, const float *x, long xk, const float *w, long wk, long rows, long cols, long n) {
    columns<2>(cols, [=](auto count, long c) {
        constexpr long C = decltype(count)::value;
        long m = 0;
        for (; (rows - m) % 6; m += 4) matmul_block<4, C, true>(y + m * cols + c, cols, x + m, 1, xk, w + c, wk, n);
        for (; m < rows; m += 6) matmul_block<6, C, true>(y + m * cols + c, cols, x + m, 1, xk, w + c, wk, n);
    });
}

// A gated unit, its weights as the products want them.
struct Unit {
    long D, I;
    Memory up_t;       // [I / W, D, 2 W]: W gates, W values; scaled
    Memory other;      // forward: down [I, D]; backward: up [2 I, D], scaled
    const float *down; // [D, I]

    Unit(const float *up, const float *down, long D, long I, bool backward)
        : D(D), I(I), up_t(2 * I * D), other(2 * I * D), down(down) {
        for (long i = 0; i < I; i += W) {
            transpose(up_t + i * 2 * D, 2 * W, up + i * D, D, W, D, -LOG2E);
            transpose(up_t + i * 2 * D + W, 2 * W, up + (I + i) * D, D, W, D, -LN2);
        }
        if (backward)
            for (long i = 0; i < 2 * I * D; ++i) other[i] = (i < I * D ? -LOG2E : -LN2) * up[i];
        else
            transpose(other, D, down, I, D, I, 1.f);
    }

    long stride() const { return I + PAD; }
    long wide() const { return 2 * I + PAD; }

    // y[rows, D] = down (silu(g) u); a: scratch [rows, stride()]
    void forward(float *y, const float *v, float *a, long rows) const {
        for (long i = 0; i < I; i += W)
            for (long m = 0; m < rows; m += M) {
                V gu[M][2] = {};
                product<M, 2>(gu, v + m * D, D, 1, up_t + i * 2 * D, 2 * W, D);
                for (long r = 0; r < M; ++r)
                    store(a + (m + r) * stride() + i, gu[r][0] * gu[r][1] / (power_of_two(gu[r][0]) + 1.f));
            }
        matmul(y, D, a, stride(), other, D, rows, D, I);
    }

    // dv[rows, D]; the gradients of the first n rows are added to d_up_t [D, 2 I] (of the scaled weights)
    // and d_down [D, I]
    void backward(float *dv, float *d_up_t, float *d_down, const float *v, const float *dy, float *a, float *dgu,
                  long rows, long n) const {
        // a holds its own gradient until it is known
        matmul(a, stride(), dy, D, down, I, rows, I, D);
        for (long i = 0; i < I; i += W)
            for (long m = 0; m < rows; m += M) {
                V gu[M][2] = {};
                product<M, 2>(gu, v + m * D, D, 1, up_t + i * 2 * D, 2 * W, D);
                for (long r = 0; r < M; ++r) {
                    float *at = a + (m + r) * stride() + i, *d = dgu + (m + r) * wide() + i;
                    V g = gu[r][0], u = gu[r][1];
                    V sigmoid = 1.f / (power_of_two(g) + 1.f), da = load(at) * sigmoid;
                    store(at, g * sigmoid * u);
                    store(d, da * u * (g * (sigmoid * LN2 - LN2) + 1.f));
                    store(d + I, da * g);
                }
            }
        matmul(dv, D, dgu, wide(), other, D, rows, D, 2 * I);
        add_outer(d_up_t, v, D, dgu, wide(), D, 2 * I, n);
        add_outer(d_down, dy, D, a, stride(), D, I, n);
    }
};

// y[n, D] = rmsnorm of the vectors that value(t, d) gives; its factors go to scale[n].
template <class Value>
INLINE void norm(float *y, float *scale, long n, long D, Value value) {
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

// Groups of all relations as rows of one table [rows, D], each relation from a multiple of M on.
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

    // Means (or sums) over members: table[rows, D] from h[S, D]
    void gather(float *table, const float *h, long D, bool mean) const {
        columns<4>(D, [=](auto count, long d) {
            constexpr long C = decltype(count)::value;
            for (long i = 0; i < rows; ++i) {
                V total[C] = {};
                for (long j = first[i]; j < first[i + 1]; ++j)
                    for (long c = 0; c < C; ++c) total[c] += load(h + members[j] * D + d + W * c);
                float factor = mean ? 1.f / std::max(1, first[i + 1] - first[i]) : 1.f;
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

bool outside(const int32_t *group, long S, long R) {
    return std::any_of(group, group + R * S, [=](int32_t each) { return each < 0 || each >= S; });
}

// to = a, plus b and c where they are given
void add(float *to, const float *a, const float *b, const float *c, long size) {
    for (long i = 0; i < size; i += W) {
        V v = load(a + i);
        if (c) v += load(c + i);
        if (b) v += load(b + i);
        store(to + i, v);
    }
}

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
struct Network {
    long S, D, R, P, I, L;
    long pool, size; // weights of a relation's unit and of a block; for a unit those of up, then of down
    Groups groups;
    std::vector<Unit> units;

    Network(const int32_t *group, const float *pool_up, const float *pool_down, const float *up, const float *down,
            long S, long D, long R, long P, long I, long L, bool backward)
        : S(S), D(D), R(R), P(P), I(I), L(L), pool(3 * P * D), size(R * pool + 3 * I * D), groups(group, S, R) {
        units.reserve(L * (R + 1));
        for (long l = 0; l < L; ++l) {
            for (long r = l * R; r < (l + 1) * R; ++r)
                units.emplace_back(pool_up + r * 2 * P * D, pool_down + r * D * P, D, P, backward);
            units.emplace_back(up + l * 2 * I * D, down + l * D * I, D, I, backward);
        }
    }

    Scratch scratch() const { return Scratch(groups.rows, D, std::max(P, I)); }

    // What backward needs of a block of a row: out[S, D], h1[S, D] and the factors of both norms, [2, S]
    long saved() const { return (2 * S * (D + 1) + 15) / 16 * 16; }

    // Block l of a row; out may be h.
    void forward(long l, float *out, float *save, const float *h, Scratch &my) const {
        const Unit *unit = &units[l * (R + 1)];
        groups.gather(my.means, h, D, true);
        for (long r = 0; r < R; ++r)
            for (long i = groups.from[r]; i < groups.from[r + 1]; i += TILE)
                unit[r].forward(my.pooled + i * D, my.means + i * D, my.a, std::min(TILE, groups.from[r + 1] - i));
        for (long s = 0; s < S; s += TILE) {
            long n = std::min(TILE, S - s);
            float *x = my.x, *y = my.y;
            float *scale1 = save ? save + 2 * S * D + s : my.scale, *scale2 = save ? scale1 + S : my.scale;
            groups.spread(x, h + s * D, my.pooled, s, n, D);
            norm(x, scale1, n, D, [=](long t, long d) { return load(x + t * D + d); });
            if (save) std::copy_n(x, n * D, save + (S + s) * D);
            unit[R].forward(y, x, my.a, (n + M - 1) / M * M);
            norm(out + s * D, scale2, n, D, [=](long t, long d) { return load(x + t * D + d) + load(y + t * D + d); });
        }
    }

    // dout becomes the gradient of h; those of the weights are added to grads.
    void backward(long l, float *dout, float *grads, const float *save, const float *h, Scratch &my) const {
        const Unit *unit = &units[l * (R + 1)];
        float *x = my.x, *y = my.y, *v = my.v, *last = grads + R * pool;
        for (long s = 0; s < S; s += TILE) {
            long n = std::min(TILE, S - s), at = s * D;
            const float *scale = save + 2 * S * D + s;
            std::copy_n(save + S * D + at, n * D, x);
            norm_backward(y, save + at, scale + S, n, D, [=](long t, long d) { return load(dout + at + t * D + d); });
            unit[R].backward(v, last, last + 2 * I * D, x, y, my.a, my.dgu, (n + M - 1) / M * M, n);
            norm_backward(dout + at, x, scale, n, D,
                          [=](long t, long d) { return load(v + t * D + d) + load(y + t * D + d); });
        }
        groups.gather(my.means, h, D, true);
        groups.gather(my.pooled, dout, D, false);
        for (long r = 0; r < R; ++r, grads += pool)
            for (long i = groups.from[r]; i < groups.from[r + 1]; i += TILE) {
                // Rows without members add nothing: their mean and sum are zero
                long rows = std::min(TILE, groups.from[r + 1] - i);
                unit[r].backward(v, grads, grads + 2 * P * D, my.means + i * D, my.pooled + i * D, my.a, my.dgu, rows,
                                 rows);
                for (long t = 0; t < rows; ++t) {
                    float count = std::max(1, groups.first[i + t + 1] - groups.first[i + t]);
                    for (long d = 0; d < D; ++d) my.pooled[(i + t) * D + d] = v[t * D + d] / count;
                }
            }
        groups.spread(dout, dout, my.pooled, 0, S, D);
    }
};

// Asks for large pages: touching new memory page by page would take a tenth of a training step.
void large_pages([[maybe_unused]] float *at, [[maybe_unused]] long size) {
#ifdef __linux__
    constexpr std::uintptr_t page = 4096;
    std::uintptr_t from = (reinterpret_cast<std::uintptr_t>(at) + page - 1) / page * page;
    std::uintptr_t to = reinterpret_cast<std::uintptr_t>(at + size) / page * page;
    if (from < to) madvise(reinterpret_cast<void *>(from), to - from, MADV_HUGEPAGE);
#endif
}

} // namespace

extern "C" {

// n times z = network(z + (y + x)), then y = network(y + z); only y = network(y) where n is 0. All are [B, S, D].
// Where it is given, `saved` takes [B, n + 1, L, Network::saved()]. Returns 1, having done nothing, where a number
// of a group is out of range.
int trm_candidates_forward(float *y_out, float *z_out, float *saved, const float *y_in, const float *z_in,
                           const float *x_in, const int32_t *group, const float *pool_up, const float *pool_down,
                           const float *up, const float *down, long n, long L, long B, long S, long D, long R, long P,
                           long I, long threads) {
    if (outside(group, S, R)) return 1;
    const Network network(group, pool_up, pool_down, up, down, S, D, R, P, I, L, false);
    const long row = S * D;
    if (saved) large_pages(saved, B * (n + 1) * L * network.saved());
#pragma omp parallel num_threads(threads)
    {
        Scratch my = network.scratch();
#pragma omp for schedule(static, 1)
        for (long b = 0; b < B; ++b) {
            const float *y = y_in + b * row, *z = n ? z_in + b * row : nullptr;
            float *save = saved ? saved + b * (n + 1) * L * network.saved() : nullptr;
            for (long u = 0; u <= n; ++u) {
                float *out = (u < n ? z_out : y_out) + b * row;
                add(out, y, z, u < n ? x_in + b * row : nullptr, row);
                const float *h = out;
                for (long l = 0; l < L; ++l, save += saved ? network.saved() : 0) {
                    network.forward(l, saved ? save : out, save, h, my);
                    if (saved) h = save;
                }
                (u < n ? z : y) = h;
            }
            if (saved) std::copy_n(y, row, y_out + b * row);
            if (saved && n) std::copy_n(z, row, z_out + b * row);
        }
    }
    return 0;
}

// dy, dz and dx hold the gradients of y_in, z_in and x_in afterwards.
int trm_candidates_backward(float *dy, float *dz, float *dx, float *d_pool_up, float *d_pool_down, float *d_up,
                            float *d_down, const float *dy_out, const float *dz_out, const float *saved,
                            const float *y_in, const float *z_in, const float *x_in, const int32_t *group,
                            const float *pool_up, const float *pool_down, const float *up, const float *down, long n,
                            long L, long B, long S, long D, long R, long P, long I, long threads) {
    if (outside(group, S, R)) return 1;
    const Network network(group, pool_up, pool_down, up, down, S, D, R, P, I, L, true);
    const long row = S * D, size = L * network.size;
    Memory total(size);
    std::fill_n(total.at, size, 0.f);
#pragma omp parallel num_threads(threads)
    {
        Scratch my = network.scratch();
        Memory grads(size), sum(row);
#pragma omp for ordered schedule(static, 1)
        for (long b = 0; b < B; ++b) {
            const long at = b * row;
            std::fill_n(grads.at, size, 0.f);
            for (long u = n; u >= 0; --u) {
                float *d = u < n ? dz + at : dy + at;
                if (u == n) std::copy_n(dy_out + at, row, d);
                const float *save = saved + (b * (n + 1) + u) * L * network.saved();
                const float *z = !n ? nullptr : u ? save - network.saved() : z_in + at;
                add(sum, y_in + at, z, u < n ? x_in + at : nullptr, row);
                for (long l = L - 1; l >= 0; --l) {
                    const float *own = save + l * network.saved();
                    network.backward(l, d, grads + l * network.size, own, l ? own - network.saved() : sum, my);
                }
                if (u < n) {
                    add(dy + at, dy + at, d, nullptr, row);
                    add(dx + at, d, u < n - 1 ? dx + at : nullptr, nullptr, row);
                } else if (n)
                    add(dz + at, dz_out + at, d, nullptr, row);
            }
#pragma omp ordered
            add(total, total, grads, nullptr, size);
        }
    }
    auto give = [&](float *up, float *down, const float *from, long inner) {
        transpose(up, D, from, 2 * inner, D, inner, -LOG2E);
        transpose(up + inner * D, D, from + inner, 2 * inner, D, inner, -LN2);
        std::copy(from + 2 * inner * D, from + 3 * inner * D, down);
    };
    for (long l = 0; l < L; ++l) {
        const float *from = total + l * network.size;
        for (long r = l * R; r < (l + 1) * R; ++r, from += network.pool)
            give(d_pool_up + r * 2 * P * D, d_pool_down + r * D * P, from, P);
        give(d_up + l * 2 * I * D, d_down + l * D * I, from, I);
    }
    return 0;
}
}
