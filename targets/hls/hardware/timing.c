// When each iteration of each process is issued. Processes are deterministic and nothing stalls behind the issue, so the
// times follow from each other whatever the order in which they are found: a process is taken as far as the words and the
// room that it needs are known, then the next one.

#include <stdint.h>
#include <stdlib.h>

typedef int64_t time_type;

typedef struct {
    int32_t depth;      // words that fit
    int32_t is_outside; // words are always there
    int64_t given, taken;
    time_type *reserved, *there, *freed; // of word i, at i % (depth + 1): issued, shown, taken
    int64_t counted;                     // words that were taken before the last one was issued
    int32_t most;
    time_type first;
} channel;

typedef struct {
    const int32_t *runs;   // [first, last) of pattern i: runs[i], runs[i + 1]
    const int64_t *counts; // iterations of a run
    const int32_t *masks;  // what each of them does
    const int32_t *acts;   // [first, last) of mask i
    const int32_t *act_channel, *act_stage; // stage -1: a word is taken
} tables;

typedef struct {
    int64_t at, end;       // executions
    int64_t period, run, done;
    time_type next, last;
    int64_t image;
} walker;

// What keeps the walker from going on: -1 nothing, else 2 * channel + whether it is full.
static int64_t wait_for(const tables *t, channel *channels, int32_t mask, time_type *when, int64_t *why) {
    for (int32_t act = t->acts[mask]; act < t->acts[mask + 1]; act++) {
        int32_t number = t->act_channel[act];
        channel *c = channels + number;
        time_type from = 0;
        if (t->act_stage[act] < 0) {
            if (c->is_outside) continue;
            if (c->given <= c->taken) return 2 * number;
            from = c->there[c->taken % (c->depth + 1)];
        } else if (c->given >= c->depth) {
            if (c->given - c->taken >= c->depth) return 2 * number + 1;
            from = c->freed[(c->given - c->depth) % (c->depth + 1)] + 1;
        }
        if (from > *when) {
            *when = from;
            *why = 2 * number + (t->act_stage[act] >= 0);
        }
    }
    return -1;
}

static void act(const tables *t, channel *channels, int32_t mask, time_type now) {
    for (int32_t act = t->acts[mask]; act < t->acts[mask + 1]; act++) {
        channel *c = channels + t->act_channel[act];
        int64_t size = c->depth + 1;
        if (t->act_stage[act] < 0) {
            if (c->taken == 0) c->first = now;
            c->freed[c->taken % size] = now;
            if (!c->is_outside) {
                while (c->freed[c->counted % size] < c->reserved[c->taken % size]) c->counted++;
                int32_t held = (int32_t)(c->taken + 1 - c->counted);
                if (held > c->most) c->most = held;
            }
            c->taken++;
        } else {
            c->reserved[c->given % size] = now;
            c->there[c->given % size] = now + t->act_stage[act] + 1;
            c->given++;
        }
    }
}

// Walks processes through `images` images. Executions [first[p], first[p + 1]) are those of process p in an image: a
// pattern that is repeated `periods` times, an iteration each `ii` cycles, `depth` until all is done.
// `started`, `ended`, `stalled` [images, processes]: the first issue, the last one, and cycles of waiting;
// `waits` [channels, 2]: of them for words, for room; `most` [channels]; `firsts` [channels]: the first word taken.
// `blocked` [processes]: what each waits for at the end, as in wait_for; -1 if it is done.
// Gives 0, 1 for a deadlock, 2 if memory is short.
int32_t tensorc_timing(
    int32_t processes, int32_t channel_count, int64_t images, const int64_t *first, const int32_t *pattern,
    const int64_t *periods, const int32_t *ii, const int32_t *depth, const int32_t *runs, const int64_t *counts,
    const int32_t *masks, const int32_t *acts, const int32_t *act_channel, const int32_t *act_stage,
    const int32_t *channel_depth, const int32_t *is_outside, int64_t *started, int64_t *ended, int64_t *stalled,
    int64_t *waits, int32_t *most, int64_t *firsts, int64_t *blocked) {
    tables t = {runs, counts, masks, acts, act_channel, act_stage};
    int32_t result = 2;
    channel *channels = calloc((size_t)channel_count + 1, sizeof *channels);
    walker *walkers = calloc((size_t)processes + 1, sizeof *walkers);
    if (!channels || !walkers) goto done;
    for (int32_t i = 0; i < channel_count; i++) {
        channel *c = channels + i;
        c->depth = channel_depth[i];
        c->is_outside = is_outside[i];
        size_t size = (size_t)c->depth + 1;
        c->reserved = calloc(3 * size, sizeof *c->reserved);
        if (!c->reserved) goto done;
        c->there = c->reserved + size;
        c->freed = c->there + size;
    }
    for (int32_t p = 0; p < processes; p++) {
        walkers[p].at = first[p];
        walkers[p].end = first[p + 1];
        walkers[p].run = walkers[p].at < walkers[p].end ? runs[pattern[first[p]]] : 0;
        if (walkers[p].at == walkers[p].end) walkers[p].image = images;
        blocked[p] = -1;
    }
    for (int moved = 1; moved;) {
        moved = 0;
        for (int32_t p = 0; p < processes; p++) {
            walker *w = walkers + p;
            while (w->image < images) {
                int64_t e = w->at, spot = w->image * processes + p;
                int32_t mask = masks[w->run];
                int begins = e == first[p] && !w->period && !w->done && w->run == runs[pattern[e]];
                if (acts[mask] == acts[mask + 1]) {
                    if (begins) started[spot] = w->next;
                    w->last = w->next + (time_type)ii[e] * (counts[w->run] - 1);
                    w->next = w->last + ii[e];
                    w->done = counts[w->run];
                } else {
                    time_type when = w->next;
                    int64_t why = -1;
                    blocked[p] = wait_for(&t, channels, mask, &when, &why);
                    if (blocked[p] >= 0) break;
                    if (begins) started[spot] = when;
                    else if (when > w->next) stalled[spot] += when - w->next;
                    if (why >= 0) waits[why] += when - w->next;
                    act(&t, channels, mask, when);
                    w->last = when;
                    w->next = when + ii[e];
                    w->done++;
                }
                moved = 1;
                if (w->done < counts[w->run]) continue;
                w->done = 0;
                if (++w->run < runs[pattern[e] + 1]) continue;
                w->run = runs[pattern[e]];
                if (++w->period < periods[e]) continue;
                w->period = 0;
                w->next = w->last + depth[e];
                if (++w->at == w->end) {
                    ended[spot] = w->last;
                    w->image++;
                    w->at = first[p];
                }
                w->run = runs[pattern[w->at]];
            }
        }
    }
    result = 0;
    for (int32_t p = 0; p < processes; p++) {
        if (walkers[p].image == images) blocked[p] = -1;
        else result = 1;
    }
    for (int32_t i = 0; i < channel_count; i++) {
        most[i] = channels[i].most;
        firsts[i] = channels[i].first;
    }
done:
    for (int32_t i = 0; channels && i < channel_count; i++) free(channels[i].reserved);
    free(channels);
    free(walkers);
    return result;
}
