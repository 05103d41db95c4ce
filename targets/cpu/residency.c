#define _GNU_SOURCE
#include "residency.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Linux 5.14's. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

struct residency {
    char *weights;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    const block_run *next, *end; /* what is to be fetched */
    int32_t done;                /* blocks of `next` that are */
    bool mapping;                /* one is being mapped, without the lock */
    bool stop;
};

static char *start_of(const residency *r, int32_t block) { return r->weights + (size_t)block * TENSORC_BLOCK; }

static size_t size_of(int32_t first, int32_t count) {
    size_t start = (size_t)first * TENSORC_BLOCK, size = (size_t)count * TENSORC_BLOCK;
    return start + size > tensorc_weights_bytes ? tensorc_weights_bytes - start : size;
}

static void advise(const residency *r, const block_run *run, int advice) {
    madvise(start_of(r, run->first), size_of(run->first, run->count), advice);
}

void residency_drop(residency *r, const block_run *runs, int32_t count) {
    for (int32_t i = 0; i < count; i++) advise(r, &runs[i], MADV_DONTNEED);
}

static void *fetch(void *argument) {
    residency *r = argument;
    pthread_mutex_lock(&r->mutex);
    while (!r->stop) {
        if (r->next == r->end) {
            pthread_cond_wait(&r->changed, &r->mutex);
            continue;
        }
        const block_run block = {r->next->first + r->done, 1};
        if (++r->done == r->next->count) {
            r->next++;
            r->done = 0;
        }
        r->mapping = true;
        pthread_mutex_unlock(&r->mutex);
        /* Where this fails, the step that needs the block maps it. */
        advise(r, &block, MADV_POPULATE_READ);
        pthread_mutex_lock(&r->mutex);
        r->mapping = false;
        pthread_cond_broadcast(&r->changed);
    }
    pthread_mutex_unlock(&r->mutex);
    return NULL;
}

void residency_change(residency *r, const change *c, bool own) {
    const block_run *fetches = tensorc_runs + c->drops + c->drop_count;
    if (own) {
        pthread_mutex_lock(&r->mutex);
        /* What was to be fetched before and is not, the steps have mapped themselves or do so now. Fetched any later, it
         * would stay. */
        r->next = r->end;
        while (r->mapping) pthread_cond_wait(&r->changed, &r->mutex);
    }
    residency_drop(r, tensorc_runs + c->drops, c->drop_count);
    if (!own) return;
    r->next = fetches;
    r->end = fetches + c->fetch_count;
    r->done = 0;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
    /* The disk may begin with all of them. */
    for (const block_run *run = fetches; run < fetches + c->fetch_count; run++) advise(r, run, MADV_WILLNEED);
}

residency *residency_open(char *weights) {
    residency *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->weights = weights;
    pthread_mutex_init(&r->mutex, NULL);
    pthread_cond_init(&r->changed, NULL);
    /* Checksums have been read through the same mapping. */
    const block_run all = {0, (int32_t)((tensorc_weights_bytes + TENSORC_BLOCK - 1) / TENSORC_BLOCK)};
    residency_drop(r, &all, 1);
    if (pthread_create(&r->thread, NULL, fetch, r) == 0) return r;
    pthread_mutex_destroy(&r->mutex);
    pthread_cond_destroy(&r->changed);
    free(r);
    return NULL;
}

void residency_close(residency *r) {
    if (!r) return;
    pthread_mutex_lock(&r->mutex);
    r->stop = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
    pthread_join(r->thread, NULL);
    pthread_mutex_destroy(&r->mutex);
    pthread_cond_destroy(&r->changed);
    free(r);
}
