/* Depth-first search for addresses under a capacity: the inner loop of passes/memory/exact.py, which says what it does.

   A buffer lives in sections first <= s < end: the sections are the maximal sets of buffers that live at one time, in
   order. All units are whole and small enough that sums of sizes fit in 31 bits.

   Only solutions are looked for in which nothing can be moved down: every buffer stands on the floor or on a buffer
   below it. So of a buffer that has no place yet either
   - it stands where it falls now (`natural`: above all that are placed in its sections), and all others come above it, or
   - one of the others comes below it: it is `held` until one does.
   The search decides that, buffer by buffer, and in between raises `low`, the lowest address that each may still get. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { INFINITE = 1 << 30, ROUNDS = 6, CLOCK_EVERY = 256 };
enum { SOLVED = 1, INFEASIBLE = 0, GAVE_UP = -1, NO_MEMORY = -2 };

/* What is tried first: the lowest buffer of all or, if `critical`, of the section that is most so; of several that are
   as low the one with the highest sum of its rank and of what is weighted here. */
typedef struct {
    int32_t critical;
    double flush;     /* for each side at which the floor ends, so that no gap is left beside */
    double level;     /* for each side at which the floor becomes level */
    double pressure;  /* for the logarithm of the weight over the slack of its sections */
} tensorc_taste;

typedef struct {
    int32_t count, begin, end;                    /* buffers without a place; their sections */
    int32_t *id, *first, *last, *size, *align;    /* by position, in the order of `low` as it was at the parent */
    int32_t *natural, *low, *held, *order;        /* `order`: positions by `low` */
    int32_t *floor, *load;                        /* by section: top of what is placed, size of what is not */
} node;

typedef struct {
    int32_t capacity, aligned, gave_up;
    const tensorc_taste *taste;
    const double *rank;                           /* by id */
    double *weight;                               /* by section: grows where the search fails */
    int32_t *offsets;
    int64_t nodes, limit;
    double deadline;
    int32_t *arena, *arena_end;
    int32_t *reach, *least, *second, *who, *top;  /* of `propagate`, which keeps nothing in them */
} search;

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static inline int32_t max(int32_t a, int32_t b) { return a > b ? a : b; }
static inline int32_t min(int32_t a, int32_t b) { return a < b ? a : b; }

static inline int32_t align_up(const search *s, int32_t offset, int32_t align) {
    return s->aligned ? (offset + align - 1) / align * align : offset;
}

/* Space for a node of `count` buffers; it is free again when `arena` is put back. */
static int open_node(search *s, node *t, int32_t count, int32_t begin, int32_t end) {
    int32_t sections = end - begin;
    if (s->arena_end - s->arena < 9 * (int64_t)count + 2 * (int64_t)sections) return 0;
    int32_t **by_buffer[] = {&t->id, &t->first, &t->last, &t->size, &t->align, &t->natural, &t->low, &t->held, &t->order};
    for (int i = 0; i < 9; i++) { *by_buffer[i] = s->arena; s->arena += count; }
    t->floor = s->arena - begin;
    t->load = s->arena + sections - begin;
    s->arena += 2 * sections;
    t->count = 0, t->begin = begin, t->end = end;
    return 1;
}

static void add_buffer(node *t, const node *from, int32_t i) {
    int32_t j = t->count++;
    t->id[j] = from->id[i], t->first[j] = from->first[i], t->last[j] = from->last[i];
    t->size[j] = from->size[i], t->align[j] = from->align[i];
    t->natural[j] = from->natural[i], t->low[j] = from->low[i], t->held[j] = from->held[i];
    t->order[j] = j;
}

static int fail_at(search *s, int32_t section) {
    s->weight[section] += 1;
    return 0;
}

/* A held buffer comes above at least one of the others that live with it. */
static int raise_held(search *s, node *t, int32_t *changed) {
    const int32_t n = t->count, *restrict first = t->first, *restrict last = t->last;
    int32_t *restrict top = s->top;
    for (int32_t i = 0; i < n; i++) top[i] = t->low[i] + t->size[i];
    for (int32_t i = 0; i < n; i++) {
        if (!t->held[i]) continue;
        int32_t begin = first[i], end = last[i], below = INFINITE, own = top[i];
        top[i] = INFINITE;
        for (int32_t j = 0; j < n; j++) {
            int32_t candidate = (first[j] < end) & (last[j] > begin) ? top[j] : INFINITE;
            below = min(below, candidate);
        }
        top[i] = own;
        below = align_up(s, below, t->align[i]);
        if (below > t->low[i]) {
            if (below + t->size[i] > s->capacity) return fail_at(s, (begin + end) / 2);
            t->low[i] = below, top[i] = below + t->size[i], *changed = 1;
        }
    }
    return 1;
}

/* In every section the buffers come one upon another, none below its `low`. */
static int stack_sections(search *s, node *t) {
    int32_t *restrict reach = s->reach, *order = t->order;
    for (int32_t k = 1; k < t->count; k++) {  /* nearly sorted */
        int32_t i = order[k], low = t->low[i], j = k;
        for (; j > 0 && t->low[order[j - 1]] > low; j--) order[j] = order[j - 1];
        order[j] = i;
    }
    for (int32_t at = t->begin; at < t->end; at++) reach[at] = t->floor[at];
    for (int32_t k = 0; k < t->count; k++) {
        int32_t i = order[k], low = t->low[i], size = t->size[i], end = t->last[i];
        for (int32_t at = t->first[i]; at < end; at++) reach[at] = max(reach[at], low) + size;
    }
    for (int32_t at = t->begin; at < t->end; at++) if (reach[at] > s->capacity) return fail_at(s, at);
    return 1;
}

/* The lowest of a section must leave room for all others above it: what cannot is above one of the others there. */
static int raise_what_cannot_be_lowest(search *s, node *t, int32_t *changed) {
    int32_t *restrict least = s->least, *restrict second = s->second, *restrict who = s->who;
    for (int32_t at = t->begin; at < t->end; at++) least[at] = second[at] = INFINITE, who[at] = -1;
    for (int32_t i = 0; i < t->count; i++) {
        int32_t top = t->low[i] + t->size[i], end = t->last[i];
        for (int32_t at = t->first[i]; at < end; at++) {
            int32_t old = least[at];
            second[at] = min(second[at], max(top, old));
            who[at] = top < old ? i : who[at];
            least[at] = min(top, old);
        }
    }
    for (int32_t i = 0; i < t->count; i++) {
        int32_t low = t->low[i], end = t->last[i], raised = low;
        for (int32_t at = t->first[i]; at < end; at++) {
            int32_t below = who[at] == i ? second[at] : least[at];
            raised = max(raised, low > s->capacity - t->load[at] ? below : low);
        }
        if (raised == low) continue;
        raised = align_up(s, raised, t->align[i]);
        if (raised + t->size[i] > s->capacity) return fail_at(s, t->first[i]);
        t->low[i] = raised, t->held[i] = 1, *changed = 1;
    }
    return 1;
}

/* Raise `low` until it stands still, or nearly. 0: there is no solution below this node. */
static int propagate(search *s, node *t) {
    int32_t changed = 1;
    for (int round = 0; changed && round < ROUNDS; round++) {
        changed = 0;
        if (!raise_held(s, t, &changed) || !stack_sections(s, t) || !raise_what_cannot_be_lowest(s, t, &changed))
            return 0;
    }
    return 1;
}

static double pressure_at(const search *s, const node *t, int32_t at) {
    return s->weight[at] / (1 + s->capacity - t->floor[at] - t->load[at]);
}

static double score(const search *s, const node *t, int32_t i) {
    int32_t first = t->first[i], last = t->last[i], natural = t->natural[i], top = natural + t->size[i];
    double sum = s->rank[t->id[i]];
    int flush = 0, level = 0;
    flush += first == t->begin || t->floor[first - 1] != natural;
    flush += last == t->end || t->floor[last] != natural;
    level += first > t->begin && t->floor[first - 1] == top;
    level += last < t->end && t->floor[last] == top;
    sum += s->taste->flush * flush + s->taste->level * level;
    if (s->taste->pressure > 0) {
        double pressure = 0;
        for (int32_t at = first; at < last; at++) pressure += pressure_at(s, t, at);
        sum += s->taste->pressure * log(pressure);
    }
    return sum;
}

/* Of the buffers that live in [begin, end) and are not held the lowest, of several the one with the highest score. */
static int32_t lowest(const search *s, const node *t, int32_t begin, int32_t end) {
    int32_t best = -1;
    double best_score = 0;
    for (int32_t i = 0; i < t->count; i++) {
        if (t->held[i] || t->first[i] >= end || t->last[i] <= begin) continue;
        if (best >= 0 && t->natural[i] > t->natural[best]) continue;
        double own = score(s, t, i);
        if (best < 0 || t->natural[i] < t->natural[best] || own > best_score) best = i, best_score = own;
    }
    return best;
}

/* The buffer to decide next, or -1 if all are held: none of them can come first. */
static int32_t choose(const search *s, const node *t) {
    if (s->taste->critical) {
        int32_t critical = -1;
        double most = -1;
        for (int32_t at = t->begin; at < t->end; at++) {
            double pressure = pressure_at(s, t, at);
            if (t->load[at] && pressure > most) critical = at, most = pressure;
        }
        int32_t best = lowest(s, t, critical, critical + 1);
        while (best >= 0) {  /* down to one that nothing can come below */
            int32_t next = lowest(s, t, t->first[best], t->last[best]);
            if (t->natural[next] == t->natural[best]) return best;
            best = next;
        }
    }
    return lowest(s, t, t->begin, t->end);
}

static int solve(search *s, node *t);

/* Parts that share no buffer's life are problems of their own. */
static int solve_parts(search *s, node *t) {
    if (!t->count) return 1;
    int32_t *crossing = s->reach;  /* buffers that live on both sides of the border behind a section */
    memset(crossing + t->begin, 0, sizeof(int32_t) * (size_t)(t->end - t->begin));
    for (int32_t i = 0; i < t->count; i++) crossing[t->first[i]]++, crossing[t->last[i] - 1]--;
    int32_t open = 0, parts = 0;
    for (int32_t at = t->begin; at < t->end; at++) {
        open += crossing[at];
        if (!open && t->load[at]) parts++;
        crossing[at] = open;
    }
    if (parts == 1) return solve(s, t);
    int32_t *back = s->arena, *borders = s->arena, sections = t->end - t->begin;
    if (s->arena_end - s->arena < sections) return s->gave_up = NO_MEMORY, 0;
    s->arena += sections;
    parts = 0;
    for (int32_t at = t->begin; at < t->end; at++) if (!crossing[at]) borders[parts++] = at + 1;
    int solved = 1;
    for (int32_t part = 0, begin = t->begin; part < parts && solved; begin = borders[part++]) {
        int32_t end = borders[part], count = 0, *inner = s->arena;
        for (int32_t i = 0; i < t->count; i++) count += t->first[i] >= begin && t->first[i] < end;
        if (!count) continue;
        node u;
        if (!open_node(s, &u, count, begin, end)) return s->gave_up = NO_MEMORY, 0;
        for (int32_t k = 0; k < t->count; k++) {
            int32_t i = t->order[k];
            if (t->first[i] >= begin && t->first[i] < end) add_buffer(&u, t, i);
        }
        memcpy(u.floor + begin, t->floor + begin, sizeof(int32_t) * (size_t)(end - begin));
        memcpy(u.load + begin, t->load + begin, sizeof(int32_t) * (size_t)(end - begin));
        solved = solve(s, &u);
        s->arena = inner;
    }
    s->arena = back;
    return solved;
}

/* The node below `t` in which its buffer `b` stands at its natural place. *free_place: nothing could come below it. */
static int open_child(search *s, const node *t, int32_t b, node *u, int *free_place) {
    if (!open_node(s, u, t->count - 1, t->begin, t->end)) return s->gave_up = NO_MEMORY, 0;
    int32_t first = t->first[b], last = t->last[b], size = t->size[b], top = t->natural[b] + size;
    memcpy(u->floor + t->begin, t->floor + t->begin, sizeof(int32_t) * (size_t)(t->end - t->begin));
    memcpy(u->load + t->begin, t->load + t->begin, sizeof(int32_t) * (size_t)(t->end - t->begin));
    for (int32_t at = first; at < last; at++) u->floor[at] = top, u->load[at] -= size;
    *free_place = 1;
    for (int32_t k = 0; k < t->count; k++) {
        int32_t i = t->order[k];
        if (i == b) continue;
        int32_t j = u->count;
        add_buffer(u, t, i);
        if (t->first[i] >= last || t->last[i] <= first) continue;
        if (t->low[i] < top) *free_place = 0;
        int32_t floor = align_up(s, top, t->align[i]);
        if (floor > u->natural[j]) {
            u->natural[j] = floor;
            u->low[j] = max(u->low[j], floor);
            u->held[j] = u->low[j] > floor;
        }
    }
    return 1;
}

static int solve(search *s, node *t) {
    int32_t *back = s->arena;
    while (t->count) {
        int32_t b = choose(s, t);
        if (b < 0) return fail_at(s, t->begin);
        s->nodes++;
        if (s->nodes >= s->limit || (s->nodes % CLOCK_EVERY == 0 && seconds() > s->deadline))
            return s->gave_up = GAVE_UP, 0;
        node u;
        int free_place;
        if (!open_child(s, t, b, &u, &free_place)) return 0;
        s->offsets[t->id[b]] = t->natural[b];
        if (propagate(s, &u) && solve_parts(s, &u)) return 1;
        s->arena = back;
        if (s->gave_up || free_place) return 0;
        t->held[b] = 1;
        if (!propagate(s, t)) return 0;
    }
    return 1;
}

/* Offsets for `count` buffers such that none ends above `capacity`. `nodes` takes how many were looked at, `weight` is
   read and added to; the search gives up behind `limit` nodes or after `time_limit` seconds.
   Gives one of SOLVED, INFEASIBLE, GAVE_UP and NO_MEMORY. */
int32_t tensorc_search(int32_t count, int32_t sections, int32_t capacity, const int32_t *first, const int32_t *last,
                       const int32_t *size, const int32_t *align, const tensorc_taste *taste, const double *rank,
                       double *weight, int64_t limit, double time_limit, int32_t *offsets, int64_t *nodes) {
    size_t space = 5 * (size_t)count * ((size_t)count + 2) + 4 * (size_t)(count + 2) * (size_t)sections;
    int32_t *memory = malloc(sizeof(int32_t) * (space + 4 * (size_t)sections + (size_t)count));
    if (!memory) return NO_MEMORY;
    search s = {
        .capacity = capacity, .taste = taste, .rank = rank, .weight = weight, .offsets = offsets, .limit = limit,
        .deadline = seconds() + time_limit, .arena = memory, .arena_end = memory + space,
    };
    s.reach = memory + space, s.least = s.reach + sections, s.second = s.least + sections, s.who = s.second + sections;
    s.top = s.who + sections;
    node root;
    int solved = 0;
    if (open_node(&s, &root, count, 0, sections)) {
        memset(root.floor, 0, sizeof(int32_t) * 2 * (size_t)sections);
        for (int32_t i = 0; i < count; i++) {
            root.id[i] = root.order[i] = i, root.first[i] = first[i], root.last[i] = last[i];
            root.size[i] = size[i], root.align[i] = align[i];
            root.natural[i] = root.low[i] = root.held[i] = 0;
            s.aligned |= align[i] != 1;
            for (int32_t at = first[i]; at < last[i]; at++) root.load[at] += size[i];
        }
        root.count = count;
        solved = propagate(&s, &root) && solve_parts(&s, &root);
    }
    free(memory);
    *nodes = s.nodes;
    return solved ? SOLVED : s.gave_up ? s.gave_up : INFEASIBLE;
}
