/* Runs the steps of a compiled model on a pool of threads.
 *
 * There is no barrier that all threads must reach. One word, the ticket, says which step is open and which of its
 * tasks comes next; whoever has nothing to do takes a share of what is left by advancing it, and the thread that
 * called `tensorc_run` opens the next step once all tasks of this one are done. A worker that is late, asleep or
 * off its core holds nobody up: the others do its share. A step of one task never touches the ticket, so runs of
 * tiny steps cost a function call each.
 *
 * After a fork the child has no workers, and for the reason above still computes, on one thread.
 *
 * With a memory budget, weights come and go between steps (residency.c), and runs take turns.
 */
#define _GNU_SOURCE
#include "executor.h"
#include "residency.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 64, HUGE_PAGE = 2 << 20 };

/* How long a thread waits before it lets go of its core: steps follow each other within SPIN_SECONDS, two runs of a
 * busy model within YIELD_SECONDS. A waiter that yields gives way to any thread that has work. */
static const double SPIN_SECONDS = 30e-6, YIELD_SECONDS = 150e-6;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* ---- a word that threads wait for ---- */

typedef struct {
    _Alignas(LINE) _Atomic uint64_t word;
    /* Apart from the word, which changes often. */
    _Alignas(LINE) _Atomic int sleepers;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
} signal_word;

static void signal_init(signal_word *s, uint64_t value) {
    atomic_init(&s->word, value);
    atomic_init(&s->sleepers, 0);
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->changed, NULL);
}

static void signal_destroy(signal_word *s) {
    pthread_mutex_destroy(&s->mutex);
    pthread_cond_destroy(&s->changed);
}

/* To be called after the word was changed. No wake-up is lost: the change and this load, and a sleeper's count and
 * its last look at the word, are sequentially consistent, so one of the two sees the other. */
static void signal_wake(signal_word *s) {
    if (atomic_load(&s->sleepers) == 0) return;
    pthread_mutex_lock(&s->mutex);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mutex);
}

/* Returns when the word is no longer `seen`: spins, then yields, then sleeps. */
static void signal_wait(signal_word *s, uint64_t seen) {
    double start = now(), waited = 0;
    while (waited < YIELD_SECONDS) {
        for (int i = 0; i < 16; i++) {
            if (atomic_load_explicit(&s->word, memory_order_relaxed) != seen) return;
            relax();
        }
        waited = now() - start;
        if (waited > SPIN_SECONDS) sched_yield();
    }
    pthread_mutex_lock(&s->mutex);
    atomic_fetch_add(&s->sleepers, 1);
    while (atomic_load(&s->word) == seen) pthread_cond_wait(&s->changed, &s->mutex);
    atomic_fetch_sub(&s->sleepers, 1);
    pthread_mutex_unlock(&s->mutex);
}

/* ---- what one run needs ---- */

typedef struct context {
    struct context *next;
    char **base;
    char *arena;
    char *scratch; /* one slice a thread */
    int spill;     /* the file that values are moved to, or -1 */
    pid_t owner;   /* the process that it is of */
} context;

static size_t round_up(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

static size_t scratch_stride(void) { return round_up(tensorc_scratch_bytes, LINE); }

static char *allocate(size_t size) {
    bool huge = size >= HUGE_PAGE;
    size_t unit = huge ? HUGE_PAGE : LINE;
    char *memory = aligned_alloc(unit, round_up(size ? size : 1, unit));
    /* Activations are walked end to end, time and again: fewer page faults and address translations. */
#ifdef MADV_HUGEPAGE
    if (memory && huge) madvise(memory, size, MADV_HUGEPAGE);
#endif
    return memory;
}

/* ---- values in a file ---- */

int tensorc_to_file(int file, const char *from, size_t size, int64_t offset) {
    for (size_t done = 0; done < size;) {
        ssize_t count = pwrite(file, from + done, size - done, offset + (int64_t)done);
        if (count < 0 && errno != EINTR) return errno;
        if (count > 0) done += (size_t)count;
    }
    return 0;
}

int tensorc_from_file(int file, char *to, size_t size, int64_t offset) {
    for (size_t done = 0; done < size;) {
        ssize_t count = pread(file, to + done, size - done, offset + (int64_t)done);
        if (count == 0) return EIO;
        if (count < 0 && errno != EINTR) return errno;
        if (count > 0) done += (size_t)count;
    }
    return 0;
}

/* A file without a name and with room for all that is moved, or -1. */
static int spill_open(void) {
    const char *folder = getenv("TMPDIR");
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/tensorc-XXXXXX", folder && *folder ? folder : "/tmp");
    if (length < 0 || (size_t)length >= sizeof path) return -1;
    int file = mkostemp(path, O_CLOEXEC);
    if (file < 0) return -1;
    unlink(path);
    if (posix_fallocate(file, 0, (off_t)tensorc_spill_bytes) == 0) return file;
    close(file);
    return -1;
}

/* A forked process shares the file of its parent, which goes on with it. */
static int context_own(context *c) {
    if (c->spill < 0 || c->owner == getpid()) return 0;
    close(c->spill);
    c->spill = spill_open();
    c->owner = getpid();
    return c->spill < 0 ? ENOSPC : 0;
}

static void context_destroy(context *c) {
    if (!c) return;
    if (c->spill >= 0) close(c->spill);
    free(c->base);
    free(c->arena);
    free(c->scratch);
    free(c);
}

static context *context_create(int threads, char *const *constants) {
    context *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->owner = getpid();
    c->spill = tensorc_spill_bytes ? spill_open() : -1;
    int32_t first_constant = BASE_INPUTS + tensorc_input_count + tensorc_output_count + tensorc_pointer_count;
    c->base = calloc((size_t)(first_constant + tensorc_constant_count), sizeof *c->base);
    c->arena = allocate(tensorc_arena_bytes);
    c->scratch = allocate((size_t)threads * scratch_stride());
    if (!c->base || !c->arena || !c->scratch || (tensorc_spill_bytes && c->spill < 0)) {
        context_destroy(c);
        return NULL;
    }
    c->base[BASE_ARENA] = c->arena;
    for (int32_t i = 0; i < tensorc_constant_count; i++) c->base[first_constant + i] = constants[i];
    return c;
}

static void context_bind(context *c, char *const *inputs, char *const *outputs) {
    char **base = c->base + BASE_INPUTS;
    for (int i = 0; i < tensorc_input_count; i++) *base++ = inputs[i];
    for (int i = 0; i < tensorc_output_count; i++) *base++ = outputs[i];
}

/* ---- the model and its pool ---- */

typedef struct {
    tensorc_model *model;
    int index; /* of its slice of scratch; the caller's is 0 */
    pthread_t thread;
} worker;

struct tensorc_model {
    signal_word ticket; /* open step << 32 | its next task */
    signal_word done;   /* tasks of the open step that are done */
    int threads;
    int started; /* workers that run, which are those to join */
    pid_t owner; /* the process that they run in */
    char *const *constants;
    context *shared; /* the pool's */
    atomic_flag busy; /* the pool is taken */
    pthread_mutex_t turn; /* of runs with a budget */
    residency *residency; /* NULL without one */
    pthread_mutex_t idle_mutex;
    context *idle; /* of runs that found the pool taken; they go alone, on the caller's thread */
    worker workers[];
};

static const uint64_t STOP = UINT64_MAX;

static uint64_t ticket_of(int32_t step) { return (uint64_t)step << 32; }

/* Take a share of the tasks left of the open step: half of an even one, so that threads end together, but never a
 * crumb. False if nothing is left; `*ticket` is then what said so. Taking proves that the step is open, and it stays
 * open until what was taken is counted as done: nothing here can be out of date. */
static bool take_share(tensorc_model *m, uint64_t *ticket, int32_t *share) {
    *ticket = atomic_load(&m->ticket.word);
    do {
        if (*ticket == STOP) return false;
        int32_t tasks = tensorc_steps[*ticket >> 32].tasks, left = tasks - (int32_t)*ticket;
        if (left <= 0) return false;
        int32_t half = left / (2 * m->threads), crumb = tasks / (16 * m->threads);
        *share = half > crumb ? half : crumb > 0 ? crumb : 1;
        if (*share > left) *share = left;
    } while (!atomic_compare_exchange_weak(&m->ticket.word, ticket, *ticket + (uint64_t)*share));
    return true;
}

/* Do shares of the open step until none is left, and return the ticket that said so. */
static uint64_t help(tensorc_model *m, int thread) {
    char *scratch = m->shared->scratch + (size_t)thread * scratch_stride();
    uint64_t ticket, did = 0;
    int32_t share;
    while (take_share(m, &ticket, &share)) {
        int32_t begin = (int32_t)ticket;
        tensorc_steps[ticket >> 32].run(m->shared->base, scratch, begin, begin + share);
        did += (uint64_t)share;
    }
    if (did) {
        atomic_fetch_add(&m->done.word, did);
        signal_wake(&m->done);
    }
    return ticket;
}

static void *work(void *argument) {
    worker *self = argument;
    for (;;) {
        uint64_t seen = help(self->model, self->index);
        if (seen == STOP) return NULL;
        signal_wait(&self->model->ticket, seen);
    }
}

static void run_shared(tensorc_model *m, int32_t step) {
    uint64_t done, all = (uint64_t)tensorc_steps[step].tasks;
    atomic_store(&m->done.word, 0);
    atomic_store(&m->ticket.word, ticket_of(step));
    signal_wake(&m->ticket);
    help(m, 0);
    while ((done = atomic_load(&m->done.word)) != all) signal_wait(&m->done, done);
}

/* A few tasks at a time; what they have touched of the weights goes before the next ones. */
static void run_slices(tensorc_model *m, context *c, const step *s) {
    for (int32_t begin = 0; begin < s->tasks; begin += s->slice) {
        int32_t end = begin + s->slice < s->tasks ? begin + s->slice : s->tasks;
        s->run(c->base, c->scratch, begin, end);
        residency_drop(m->residency, &s->table, 1);
    }
}

static int run_steps(tensorc_model *m, context *c, bool shared, double *seconds) {
    const change *coming = tensorc_changes;
    bool own = !m->residency || m->owner == getpid();
    int error = 0;
    if (seconds) memset(seconds, 0, (size_t)tensorc_step_count * sizeof *seconds);
    for (int32_t i = 0, next; i < tensorc_step_count && !error; i = next) {
        const step *s = &tensorc_steps[i];
        double start = seconds ? now() : 0;
        next = i + 1;
        if (i == coming->step) residency_change(m->residency, coming++, own);
        if (s->control)
            next = s->control(c->base);
        else if (s->transfer)
            error = s->transfer(c->base, c->spill);
        else if (s->slice)
            run_slices(m, c, s);
        else if (shared && s->tasks > 1 && !s->serial)
            run_shared(m, i);
        else
            s->run(c->base, c->scratch, 0, s->tasks);
        if (seconds) seconds[i] += now() - start;
    }
    while (coming->step >= 0) residency_change(m->residency, coming++, own);
    return error;
}

static context *take_idle(tensorc_model *m) {
    pthread_mutex_lock(&m->idle_mutex);
    context *c = m->idle;
    if (c) m->idle = c->next;
    pthread_mutex_unlock(&m->idle_mutex);
    return c ? c : context_create(1, m->constants);
}

static void give_idle(tensorc_model *m, context *c) {
    pthread_mutex_lock(&m->idle_mutex);
    c->next = m->idle;
    m->idle = c;
    pthread_mutex_unlock(&m->idle_mutex);
}

static int run_once(tensorc_model *m, char *const *inputs, char *const *outputs, double *step_seconds) {
    bool pool = !atomic_flag_test_and_set(&m->busy);
    context *c = pool ? m->shared : take_idle(m);
    if (!c) return ENOMEM;
    int error = context_own(c);
    if (!error) {
        context_bind(c, inputs, outputs);
        error = run_steps(m, c, pool && m->threads > 1, step_seconds);
    }
    if (pool)
        atomic_flag_clear(&m->busy);
    else
        give_idle(m, c);
    return error;
}

int tensorc_run(tensorc_model *m, char *const *inputs, char *const *outputs, double *step_seconds) {
    /* In a forked child a run may hold the lock that is there no more. */
    bool turn = tensorc_budget && m->owner == getpid();
    if (turn) pthread_mutex_lock(&m->turn);
    int error = run_once(m, inputs, outputs, step_seconds);
    if (turn) pthread_mutex_unlock(&m->turn);
    return error;
}

tensorc_model *tensorc_open(int threads, char *const *constants) {
    size_t size = sizeof(tensorc_model) + (size_t)threads * sizeof(worker);
    tensorc_model *m = aligned_alloc(LINE, round_up(size, LINE));
    if (!m) return NULL;
    *m = (tensorc_model){.threads = threads, .owner = getpid(), .constants = constants, .busy = ATOMIC_FLAG_INIT};
    signal_init(&m->ticket, ticket_of(tensorc_step_count)); /* the row of no tasks */
    signal_init(&m->done, 0);
    pthread_mutex_init(&m->idle_mutex, NULL);
    pthread_mutex_init(&m->turn, NULL);
    m->shared = context_create(threads, constants);
    bool sound = m->shared != NULL;
    if (sound && tensorc_weights_bytes) sound = (m->residency = residency_open(constants[0])) != NULL;
    for (int i = 1; sound && i < threads; i++) {
        worker *w = &m->workers[m->started];
        *w = (worker){.model = m, .index = i};
        sound = pthread_create(&w->thread, NULL, work, w) == 0;
        m->started += sound;
    }
    if (sound) return m;
    tensorc_close(m);
    return NULL;
}

void tensorc_close(tensorc_model *m) {
    /* In a forked child the workers are gone, and a lock or condition may be as they left it: nothing can be undone. */
    if (m->owner != getpid()) return;
    atomic_store(&m->ticket.word, STOP);
    signal_wake(&m->ticket);
    for (int i = 0; i < m->started; i++) pthread_join(m->workers[i].thread, NULL);
    while (m->idle) {
        context *c = m->idle;
        m->idle = c->next;
        context_destroy(c);
    }
    context_destroy(m->shared);
    residency_close(m->residency);
    signal_destroy(&m->ticket);
    signal_destroy(&m->done);
    pthread_mutex_destroy(&m->idle_mutex);
    pthread_mutex_destroy(&m->turn);
    free(m);
}
