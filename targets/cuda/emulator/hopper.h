/* What Hopper has and others have not: barriers in shared memory, copies of many bytes, products of warpgroups (PTX ISA,
   "mbarrier", "cp.async.bulk", "wgmma"). What is undefined there and can be seen is an error. Behind host.h, for kernels
   that ask for it. */

struct tc_bulk {
    void *to;
    const void *from;
    int bytes;
};
/* `phase` counts those that have ended, `news` what may let others go on. */
struct tc_barrier {
    const uint64_t *at;
    int count, left, bytes, phase, news, unfenced;
    std::vector<tc_bulk> waiting;
};
static tc_barrier tc_barriers[64];
static int tc_barrier_count;

static tc_barrier &tc_barrier_at(const uint64_t *barrier) {
    for (tc_barrier *found = tc_barriers; found < tc_barriers + tc_barrier_count; found++) {
        if (found->at == barrier) return *found;
    }
    static tc_barrier none;
    tc_error = "a barrier is used before it is made";
    return none = tc_barrier{barrier, 1 << 20, 1 << 20, 0, 0, 0, 0, {}};
}
static void tc_barrier_advance(tc_barrier &mine) {
    if (mine.left < 0) tc_error = "more arrive at a barrier than it waits for";
    if (mine.left) return;
    mine.news++;
    if (mine.bytes) return;
    mine.left = mine.count;
    mine.phase++;
}
/* As other copies, those of many bytes come as late as can be in even blocks, and at once in odd ones. */
static void tc_bulk_lands(tc_barrier &mine, const tc_bulk &copy) {
    memcpy(copy.to, copy.from, copy.bytes);
    tc_copy_ends(copy.to, copy.bytes, false);
    mine.bytes -= copy.bytes;
    tc_barrier_advance(mine);
}

TENSORC_DEVICE void tc_barrier_init(uint64_t *barrier, int arrivals) {
    tc_aligned(barrier, 8);
    for (int i = 0; i < tc_barrier_count; i++) {
        if (tc_barriers[i].at == barrier) tc_error = "a barrier is made twice";
    }
    if (tc_barrier_count == 64) tc_error = "more barriers than are emulated", tc_barrier_count--;
    tc_barriers[tc_barrier_count++] = tc_barrier{barrier, arrivals, arrivals, 0, 0, 0, threadIdx.x + 1, {}};
}
TENSORC_DEVICE void tc_barrier_arrive(uint64_t *barrier) {
    tc_barrier &mine = tc_barrier_at(barrier);
    mine.left--;
    tc_barrier_advance(mine);
}
TENSORC_DEVICE void tc_barrier_expect(uint64_t *barrier, int bytes) {
    tc_barrier_at(barrier).bytes += bytes;
    tc_barrier_arrive(barrier);
}
TENSORC_DEVICE void tc_barrier_wait(uint64_t *barrier, int parity) {
    tc_barrier &mine = tc_barrier_at(barrier);
    while (mine.phase % 2 == parity && !tc_error) {
        if (mine.left == 0 && !mine.waiting.empty()) {
            tc_bulk copy = mine.waiting.back();
            mine.waiting.pop_back();
            tc_bulk_lands(mine, copy);
        } else {
            tc_wait(&mine.news);
        }
    }
}
TENSORC_DEVICE void tc_async_fence() {
    for (int piece : tc_unfenced[threadIdx.x]) {
        if (tc_pieces[piece].unfenced == threadIdx.x + 1) tc_pieces[piece].unfenced = 0;
    }
    tc_unfenced[threadIdx.x].clear();
    for (int i = 0; i < tc_barrier_count; i++) {
        if (tc_barriers[i].unfenced == threadIdx.x + 1) tc_barriers[i].unfenced = 0;
    }
}
TENSORC_DEVICE void tc_bulk_copy(void *to, const void *from, int bytes, uint64_t *barrier) {
    tc_aligned(to, 16);
    tc_aligned(from, 16);
    if (bytes <= 0 || bytes % 16 || bytes >= 1 << 20) tc_error = "a copy is not of whole pieces of 16 bytes";
    tc_barrier &mine = tc_barrier_at(barrier);
    if (mine.unfenced) tc_error = "copies arrive at a barrier that was made without a fence";
    tc_copy_begins(to, bytes);
    if (blockIdx.x % 2)
        tc_bulk_lands(mine, {to, from, bytes});
    else
        mine.waiting.push_back({to, from, bytes});
}

static tc_team tc_first;
template <int THREADS> TENSORC_DEVICE void tc_sync_first() {
    if (threadIdx.x >= THREADS) tc_error = "a thread waits for others that it does not belong to";
    if (!tc_first.members) tc_first.members = THREADS;
    if (tc_first.members != THREADS) tc_error = "threads wait for each other in different numbers";
    tc_together(tc_first, threadIdx.x, nullptr, [](void **) {});
}

/* Sums of a thread that products under way add to: what they will be. In the registers there is nonsense, so that who
   reads or writes them before the end finds out. */
struct tc_sums {
    int *at;
    std::vector<int> bits;
    int last; /* group */
};
struct tc_product {
    int group;
    uint64_t operands[2];
    int rows[2];
    uint32_t check;
};
struct tc_warpgroup {
    tc_team team;
    int group, registers, started;
    std::vector<tc_product> going;
};
static tc_warpgroup tc_warpgroups[8];
static std::vector<tc_sums> tc_adding[1024];
static bool tc_sums_fenced[1024];
#define TC_NONSENSE 0x7fedcba9

TENSORC_DEVICE uint64_t tc_descriptor(const void *place, uint64_t layout) {
    uintptr_t at = (uintptr_t)place - (uintptr_t)tc_shared_memory;
    if (at % 16 || at >= tc_shared_bytes) tc_error = "an operand of a product does not begin at 16 bytes of shared memory";
    return layout | at >> 4;
}

/* Where 16 bytes of an operand are, by its descriptor: 8 rows are a pattern of the swizzle's width, the next 8 are a
   stride further. Without swizzling a pattern is 16 bytes wide, and the leading offset leads to the next along k. */
static const unsigned char *tc_operand(uint64_t descriptor, int row, int chunk) {
    int start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4;
    int stride = (descriptor >> 32 & 0x3fff) << 4, base = descriptor >> 49 & 7, mode = descriptor >> 62;
    if (descriptor & 0x3ff1c000c000c000) tc_error = "bits of a descriptor are set that mean nothing";
    int at;
    if (mode == 0) {
        at = start + row / 8 * stride + row % 8 * 16 + chunk * leading;
    } else {
        int width = 256 >> mode; /* 1: 128, 2: 64, 3: 32 */
        at = start + row / 8 * stride + row % 8 * width + chunk * 16;
        at ^= at >> 3 & (width - 16);
        if (base) tc_error = "patterns of swizzled rows that begin elsewhere are not emulated";
        if (start % width + 32 > width) tc_error = "an operand of a product reaches beyond its swizzled rows";
    }
    if (at + 16 > tc_shared_bytes) tc_error = "an operand of a product lies outside shared memory", at = 0;
    return tc_shared_memory + at;
}

static uint32_t tc_checked(const tc_product &product) {
    uint32_t check = 1;
    for (int operand = 0; operand < 2; operand++) {
        for (int i = 0; i < 2 * product.rows[operand]; i++) {
            uint32_t words[4];
            memcpy(words, tc_operand(product.operands[operand], i / 2, i % 2), 16);
            for (uint32_t word : words) check = (check ^ word) * 16777619u;
        }
    }
    return check;
}
template <typename F> static void tc_pieces_of_product(const tc_product &product, F each) {
    for (int operand = 0; operand < 2; operand++) {
        for (int i = 0; i < 2 * product.rows[operand]; i++) {
            each(tc_pieces[(tc_operand(product.operands[operand], i / 2, i % 2) - tc_shared_memory) / 16]);
        }
    }
}

static tc_warpgroup &tc_my_warpgroup() {
    tc_warpgroup &mine = tc_warpgroups[threadIdx.x / 128];
    if (mine.team.members != 128) tc_error = "a warpgroup has four whole warps";
    return mine;
}

/* Of a multiprocessor's registers each thread has an equal share at first, in pieces of 8. */
#define TC_REGISTERS 65536
template <int N> static void tc_set_registers(bool more) {
    static_assert(N % 8 == 0 && N >= 24 && N <= 256, "registers of a thread");
    tc_warpgroup &mine = tc_my_warpgroup();
    tc_together(mine.team, threadIdx.x % 128, nullptr, [&](void **) {
        if (more ? N < mine.registers : N > mine.registers) tc_error = "registers change the other way";
        mine.registers = N;
    });
}
template <int N> TENSORC_DEVICE void tc_fewer_registers() {
    tc_set_registers<N>(false);
}
template <int N> TENSORC_DEVICE void tc_more_registers() {
    tc_set_registers<N>(true);
}

struct tc_part {
    int *sums;
    uint64_t a, b;
    int thread;
};

static tc_sums &tc_sums_of(const tc_part &part, int count, int group) {
    std::vector<tc_sums> &mine = tc_adding[part.thread];
    for (tc_sums &sums : mine) {
        if (sums.at >= part.sums + count || part.sums >= sums.at + sums.bits.size()) continue;
        if (sums.at != part.sums || sums.bits.size() != count) tc_error = "products of other shapes add to the same sums";
        for (int i = 0; i < count; i++) {
            if (part.sums[i] != TC_NONSENSE) tc_error = "sums are written that products under way add to";
        }
        sums.last = group;
        return sums;
    }
    if (!tc_sums_fenced[part.thread]) tc_error = "products add to sums before a fence";
    mine.push_back({part.sums, std::vector<int>(part.sums, part.sums + count), group});
    for (int i = 0; i < count; i++) part.sums[i] = TC_NONSENSE;
    return mine.back();
}

/* `each` elements of A and B to 4 bytes, as `a_of` and `b_of` (word, number in it) have them; 32 bytes along k. */
template <int N, typename S, typename A, typename B>
static void tc_wgmma_of(S *d, uint64_t a, uint64_t b, int each, A a_of, B b_of) {
    tc_warpgroup &mine = tc_my_warpgroup();
    if (tc_error) return;
    tc_part part{(int *)d, a, b, threadIdx.x};
    tc_together(mine.team, threadIdx.x % 128, &part, [&](void **given) {
        const tc_part &first = *(tc_part *)given[0];
        tc_product product{mine.group, {first.a, first.b}, {64, N}, 0};
        product.check = tc_checked(product);
        tc_pieces_of_product(product, [](tc_piece &piece) {
            if (piece.coming) tc_error = "products read what has not arrived";
            if (piece.unfenced) tc_error = "products read what a thread wrote without a fence";
            piece.read++;
        });
        mine.going.push_back(product);
        const int depth = 8 * each;
        std::vector<S> rows(64 * depth), columns(N * depth);
        auto read = [&](uint64_t descriptor, int count, S *to, auto of) {
            for (int i = 0; i < count * depth; i++) {
                int k = i % depth, word = k / each;
                uint32_t bits;
                memcpy(&bits, tc_operand(descriptor, i / depth, word / 4) + word % 4 * 4, 4);
                to[i] = of(bits, k % each);
            }
        };
        read(first.a, 64, rows.data(), a_of);
        read(first.b, N, columns.data(), b_of);
        for (int thread = 0; thread < 128; thread++) {
            const tc_part &other = *(tc_part *)given[thread];
            if (other.a != first.a || other.b != first.b) tc_error = "a warpgroup's threads name different operands";
            tc_sums &sums = tc_sums_of(other, N / 2, mine.group);
            for (int i = 0; i < N / 2; i++) {
                const S *x = &rows[(thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8) * depth];
                const S *y = &columns[(i / 4 * 8 + thread % 4 * 2 + i % 2) * depth];
                S sum;
                memcpy(&sum, &sums.bits[i], sizeof sum);
                for (int k = 0; k < depth; k++) sum += x[k] * y[k];
                memcpy(&sums.bits[i], &sum, sizeof sum);
            }
        }
    });
}
template <int N> TENSORC_DEVICE void tc_wgmma_float16(float *d, uint64_t a, uint64_t b) {
    auto element = [](uint32_t word, int i) { return tc_widened((uint16_t)(word >> 16 * i), (const half *)nullptr); };
    tc_wgmma_of<N>(d, a, b, 2, element, element);
}
template <int N> TENSORC_DEVICE void tc_wgmma_bfloat16(float *d, uint64_t a, uint64_t b) {
    auto element = [](uint32_t word, int i) { return tc_widened((uint16_t)(word >> 16 * i), (const uint16_t *)nullptr); };
    tc_wgmma_of<N>(d, a, b, 2, element, element);
}
template <int N> TENSORC_DEVICE void tc_wgmma_uint8(int *d, uint64_t a, uint64_t b) {
    tc_wgmma_of<N>(
        d, a, b, 4, [](uint32_t word, int i) { return (int)(uint8_t)(word >> 8 * i); },
        [](uint32_t word, int i) { return (int)(int8_t)(word >> 8 * i); });
}
TENSORC_DEVICE void tc_wgmma_fence() {
    tc_sums_fenced[threadIdx.x] = true;
}
TENSORC_DEVICE void tc_wgmma_commit() {
    tc_warpgroup &mine = tc_my_warpgroup();
    tc_together(mine.team, threadIdx.x % 128, nullptr, [&](void **) { mine.group++; });
}
template <int N> TENSORC_DEVICE void tc_wgmma_wait() {
    tc_warpgroup &mine = tc_my_warpgroup();
    tc_together(mine.team, threadIdx.x % 128, nullptr, [&](void **) {
        std::vector<tc_product> rest;
        for (const tc_product &product : mine.going) {
            if (product.group >= mine.group - N) {
                rest.push_back(product);
                continue;
            }
            if (tc_checked(product) != product.check) tc_error = "operands of products under way have changed";
            tc_pieces_of_product(product, [](tc_piece &piece) { piece.read--; });
        }
        mine.going = rest;
        int first = threadIdx.x / 128 * 128;
        for (int thread = first; thread < first + 128; thread++) {
            std::vector<tc_sums> going;
            for (tc_sums &sums : tc_adding[thread]) {
                if (sums.last >= mine.group - N) {
                    going.push_back(sums);
                    continue;
                }
                for (int i = 0; i < sums.bits.size(); i++) {
                    if (sums.at[i] != TC_NONSENSE) tc_error = "sums are written that products under way add to";
                }
                memcpy(sums.at, sums.bits.data(), 4 * sums.bits.size());
                tc_sums_fenced[thread] = false;
            }
            tc_adding[thread] = going;
        }
    });
}
template <int N, typename S> TENSORC_DEVICE void tc_wgmma_done(S *) {
    tc_wgmma_wait<0>();
}

static void tc_begin_hopper(int threads) {
    tc_barrier_count = 0;
    tc_first = tc_team{0, 0, 0, {}};
    for (int i = 0; i < threads; i++) {
        tc_adding[i].clear();
        tc_sums_fenced[i] = false;
    }
    for (int i = 0; i < 8; i++) tc_warpgroups[i] = {tc_team{min(128, threads - 128 * i), 0, 0, {}}, 0, TC_REGISTERS / threads / 8 * 8, min(128, threads - 128 * i), {}};
}
static void tc_end_hopper() {
    for (int i = 0; i < tc_barrier_count; i++) {
        if (!tc_barriers[i].waiting.empty()) tc_error = "a block ended before what it asked for had arrived";
    }
    int registers = 0;
    for (tc_warpgroup &group : tc_warpgroups) {
        if (!group.going.empty()) tc_error = "a block ended while products were under way";
        registers += group.registers * max(group.started, 0);
    }
    if (registers > TC_REGISTERS) tc_error = "threads wait for registers that there are not";
}

static bool tc_has_hopper = [] {
    tc_hopper_begins = tc_begin_hopper;
    tc_hopper_ends = tc_end_hopper;
    return true;
}();
