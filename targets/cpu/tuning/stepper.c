/* The executor, and what measuring asks of it: one step at a time, with caches as they are in a whole model. */
#include "executor.c"

#include <signal.h>
#include <string.h>

enum { CHUNK = 1 << 16 };

/* A kernel: reads what lies at `memory`, one chunk a task, and so brings it into the caches and drives out others. */
void tensorc_read(const char *memory, int32_t begin, int32_t end) {
    const volatile char *last = memory + (size_t)end * CHUNK;
    for (const volatile char *p = memory + (size_t)begin * CHUNK; p < last; p += LINE) (void)*p;
}

/* Drives what lies at `memory` out of the caches of all cores; needs a CPU with clflushopt, if it is an x86. */
#if defined(__x86_64__)
__attribute__((target("clflushopt")))
#endif
TENSORC_API void tensorc_flush(const char *memory, size_t size) {
#if defined(__x86_64__)
    for (size_t i = 0; i < size; i += LINE) __builtin_ia32_clflushopt((void *)(memory + i));
    __builtin_ia32_mfence();
#else
    (void)memory, (void)size;
#endif
}

/* Memory that was never written to is one page of zeros, however long. */
TENSORC_API void tensorc_fill_arena(tensorc_model *m) { memset(m->shared->arena, 1, tensorc_arena_bytes); }

/* The seconds that one step takes. */
TENSORC_API double tensorc_run_step(tensorc_model *m, int32_t index, char *const *inputs, char *const *outputs) {
    const step *s = &tensorc_steps[index];
    context_bind(m->shared, inputs, outputs);
    errno = 0; /* for `fallen` */
    double start = now();
    if (m->threads > 1 && s->tasks > 1 && !s->serial)
        run_shared(m, index);
    else
        s->run(m->shared->base, m->shared->scratch, 0, s->tasks);
    return now() - start;
}

/* ---- a step that fell over after memory was refused to it, rather than for a reason of its own ---- */

static volatile char *refused;

static void fallen(int number) {
    if (errno == ENOMEM) *refused = 1;
    signal(number, SIG_DFL);
    raise(number);
}

/* `mark` is set to 1 when the process is about to die of a signal and the last that failed was an allocation. */
TENSORC_API void tensorc_watch(volatile char *mark) {
    refused = mark;
    const int fatal[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
    for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++) signal(fatal[i], fallen);
}
