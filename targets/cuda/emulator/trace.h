/* What a kernel's accesses cost its warps: with this, g++ builds a kernel whose every access to global and shared memory
   is noted. The accesses of a warp's lanes that stem from one place in the code, each lane's n-th time there, are one
   request, as on a GPU. A request to global memory takes sectors of 32 bytes; one to shared memory takes turns, in each
   of which a bank of 4 bytes serves one address. Included by host.h. */

struct tc_access {
    const void *place;
    int time, thread, bytes;
    uintptr_t address;
    bool is_shared, is_store;
};

/* By place: requests, and what they took and would have taken at best, in sectors or turns. */
struct tc_cost {
    const void *place;
    bool is_shared, is_store;
    long requests, taken, least;
};

static std::vector<tc_access> tc_accesses;
static std::vector<tc_cost> tc_costs;
static std::map<std::pair<int, const void *>, int> tc_times;
/* Of the library: the linker defines them. */
extern "C" char _end __attribute__((visibility("hidden")));
extern "C" char __ehdr_start __attribute__((visibility("hidden")));
extern "C" char *tensorc_base() { return &__ehdr_start; }

static bool tc_is_shared(uintptr_t address) {
    return (address >= (uintptr_t)tc_shared_memory && address < (uintptr_t)tc_shared_memory + TC_SHARED_MOST) ||
           (address >= (uintptr_t)&__ehdr_start && address < (uintptr_t)&_end);
}

static bool tc_is_local(uintptr_t address) {
    const char *stack = tc_fibers[tc_current].stack;
    return address >= (uintptr_t)stack && address < (uintptr_t)stack + TC_STACK;
}

static __attribute__((noinline)) void tc_note(const volatile void *where, int bytes, bool is_store) {
    uintptr_t address = (uintptr_t)where;
    if (tc_is_local(address)) return;
    const void *place = __builtin_return_address(0);
    int time = tc_times[{tc_current, place}]++;
    if (!bytes) return; /* where other lanes read or write, this one does not */
    tc_accesses.push_back({place, time, tc_current, bytes, address, tc_is_shared(address), is_store});
}

static tc_cost &tc_cost_of(const tc_access &one) {
    for (tc_cost &cost : tc_costs) {
        if (cost.place == one.place && cost.is_store == one.is_store && cost.is_shared == one.is_shared) return cost;
    }
    tc_costs.push_back({one.place, one.is_shared, one.is_store, 0, 0, 0});
    return tc_costs.back();
}

/* Turns of a request to shared memory: lanes go in as many groups as their bytes fill 128, in order; in a group the
   bank that is asked for the most different words says how many turns it takes. */
static int tc_turns(const std::vector<tc_access> &request) {
    int bytes = request[0].bytes, group = bytes > 4 ? 128 / bytes : 32, turns = 0;
    std::map<int, std::map<int, std::set<uintptr_t>>> asked;
    for (const tc_access &one : request) {
        for (uintptr_t word = one.address / 4; word <= (one.address + one.bytes - 1) / 4; word++) {
            asked[one.thread % 32 / group][word % 32].insert(word);
        }
    }
    for (auto &part : asked) {
        size_t most = 0;
        for (auto &bank : part.second) most = std::max(most, bank.second.size());
        turns += (int)most;
    }
    return turns;
}

static int tc_sectors(const std::vector<tc_access> &request) {
    std::set<uintptr_t> sectors;
    for (const tc_access &one : request) {
        for (uintptr_t s = one.address / 32; s <= (one.address + one.bytes - 1) / 32; s++) sectors.insert(s);
    }
    return (int)sectors.size();
}

/* At best: different bytes, packed; of shared memory, a turn for each group of lanes. */
static int tc_least(const std::vector<tc_access> &request) {
    std::set<uintptr_t> different;
    int bytes = request[0].bytes, group = bytes > 4 ? 128 / bytes : 32;
    for (const tc_access &one : request) {
        if (one.is_shared) different.insert(one.thread % 32 / group);
        for (int i = 0; i < one.bytes && !one.is_shared; i++) different.insert(one.address + i);
    }
    return request[0].is_shared ? (int)different.size() : (int)((different.size() + 31) / 32);
}

/* At the end of a block. */
static void tc_count() {
    std::stable_sort(tc_accesses.begin(), tc_accesses.end(), [](const tc_access &a, const tc_access &b) {
        return std::make_tuple(a.thread / 32, a.place, a.time, a.is_store, a.is_shared) <
               std::make_tuple(b.thread / 32, b.place, b.time, b.is_store, b.is_shared);
    });
    for (size_t first = 0; first < tc_accesses.size();) {
        const tc_access &head = tc_accesses[first];
        std::vector<tc_access> request;
        while (first < tc_accesses.size()) {
            const tc_access &one = tc_accesses[first];
            if (one.thread / 32 != head.thread / 32 || one.place != head.place || one.time != head.time ||
                one.is_store != head.is_store || one.is_shared != head.is_shared)
                break;
            request.push_back(one);
            first++;
        }
        tc_cost &cost = tc_cost_of(request[0]);
        cost.requests++;
        cost.taken += request[0].is_shared ? tc_turns(request) : tc_sectors(request);
        cost.least += tc_least(request);
    }
    tc_accesses.clear();
    tc_times.clear();
}

/* An element that is noted when it is read or written, and not when its address is taken. */
template <typename T> struct tc_element {
    T *where;
    __attribute__((always_inline)) operator T() const {
        tc_note(where, sizeof(T), false);
        return *where;
    }
    template <typename V> __attribute__((always_inline)) T operator=(V value) {
        tc_note(where, sizeof(T), true);
        return *where = (T)value;
    }
    __attribute__((always_inline)) T operator=(const tc_element &other) { return *this = (T)other; }
    T *operator&() const { return where; }
};
template <> struct tc_element<half> {
    half *where;
    __attribute__((always_inline)) operator float() const {
        tc_note(where, sizeof(half), false);
        return (float)*where;
    }
    template <typename V> __attribute__((always_inline)) half operator=(V value) {
        tc_note(where, sizeof(half), true);
        return *where = half((float)value);
    }
    __attribute__((always_inline)) half operator=(const tc_element &other) { return *this = (float)other; }
    half *operator&() const { return where; }
};
template <typename T> struct tc_pointer {
    T *base;
    explicit tc_pointer(void *address) : base((T *)address) {}
    template <typename I> tc_element<T> operator[](I i) const { return {base + i}; }
    template <typename I> T *operator+(I i) const { return base + i; }
};
template <typename T, int N> struct tc_array {
    alignas(64) T elements[N];
    template <typename I> tc_element<T> operator[](I i) { return {elements + i}; }
    template <typename I> T *operator+(I i) { return elements + i; }
};

extern "C" size_t tensorc_costs(long *rows, size_t most) {
    for (size_t i = 0; i < tc_costs.size() && i < most; i++) {
        const tc_cost &cost = tc_costs[i];
        long row[] = {(long)cost.place, cost.is_shared, cost.is_store, cost.requests, cost.taken, cost.least};
        memcpy(rows + 6 * i, row, sizeof row);
    }
    return tc_costs.size();
}
