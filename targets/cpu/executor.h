/* What the generated table of steps and the executor agree on, and the interface that Python calls. */
#ifndef TENSORC_EXECUTOR_H
#define TENSORC_EXECUTOR_H

#include <stddef.h>
#include <stdint.h>

/* Indices into `base`. The scratch of the running thread is handed over apart: it is the one base that differs
 * between the threads of a run. Inputs, then outputs, the pointers of loops and the constants follow. */
enum { BASE_ARENA = 0, BASE_INPUTS = 2 };

/* Does tasks [begin, end) of a step. */
typedef void step_function(char *const *base, char *scratch, int32_t begin, int32_t end);

/* Sets the pointers of loops, and gives the number of the step to go on with. No other step is under way. */
typedef int32_t control_function(char **base);

/* Moves a value between the arena and the file `spill`; 0 or an errno. */
typedef int transfer_function(char *const *base, int spill);

/* With a memory budget, the weights are in a mapped file, from the first constant on. They come and go in blocks as
 * large as the pages that the system may map at once. */
enum { TENSORC_BLOCK = 2 << 20 };

typedef struct {
    int32_t first, count;
} block_run;

/* Before step `step`, `drop_count` runs of blocks, in `tensorc_runs` from `drops` on, are let go; then the `fetch_count`
 * behind them may come. */
typedef struct {
    int32_t step, drops, drop_count, fetch_count;
} change;

typedef struct {
    step_function *run;          /* one of these */
    control_function *control;   /* is not */
    transfer_function *transfer; /* NULL */
    int32_t tasks;
    int32_t serial;  /* not worth sharing: the calling thread does it alone */
    int32_t slice;   /* if not 0, the calling thread does so many tasks at a time, and then lets go */
    block_run table; /* of these, few of which they touch */
} step;

/* Generated. `tensorc_steps` ends with a row of no tasks, `tensorc_changes` with one of step -1. */
extern const step tensorc_steps[];
extern const change tensorc_changes[];
extern const block_run tensorc_runs[];
extern const int32_t tensorc_budget; /* whether there is one; without, all of the above and two below are empty */
extern const size_t tensorc_weights_bytes, tensorc_spill_bytes;
extern const int32_t tensorc_step_count, tensorc_input_count, tensorc_output_count, tensorc_pointer_count;
extern const int32_t tensorc_constant_count;
extern const size_t tensorc_arena_bytes, tensorc_scratch_bytes;

/* All of the bytes, or an errno. */
int tensorc_to_file(int file, const char *from, size_t size, int64_t offset);
int tensorc_from_file(int file, char *to, size_t size, int64_t offset);

#define TENSORC_API __attribute__((visibility("default")))

typedef struct tensorc_model tensorc_model;

/* A model that runs on `threads` threads, the caller's among them; NULL if memory or threads are not to be had.
 * The array `constants` must outlive it, and what it points to. */
TENSORC_API tensorc_model *tensorc_open(int threads, char *const *constants);

/* One inference; any number may be under way at once, but with a budget they take turns. `step_seconds` is NULL or has
 * room for every step, and gets the sum over all times that the step was done. Returns 0, or an errno. */
TENSORC_API int tensorc_run(tensorc_model *model, char *const *inputs, char *const *outputs, double *step_seconds);

/* No run may be under way. */
TENSORC_API void tensorc_close(tensorc_model *model);

#endif
