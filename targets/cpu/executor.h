/* What the generated table of steps and the executor agree on, and the interface that Python calls. */
#ifndef TENSORC_EXECUTOR_H
#define TENSORC_EXECUTOR_H

#include <stddef.h>
#include <stdint.h>

/* Indices into `base`. The scratch of the running thread is handed over apart: it is the one base that differs
 * between the threads of a run. Inputs, then outputs, then the pointers of loops follow. */
enum { BASE_WEIGHTS = 0, BASE_ARENA = 1, BASE_INPUTS = 3 };

/* Does tasks [begin, end) of a step. */
typedef void step_function(char *const *base, char *scratch, int32_t begin, int32_t end);

/* Sets the pointers of loops, and gives the number of the step to go on with. No other step is under way. */
typedef int32_t control_function(char **base);

typedef struct {
    step_function *run;        /* one of these */
    control_function *control; /* is NULL */
    int32_t tasks;
    int32_t serial; /* not worth sharing: the calling thread does it alone */
} step;

/* Generated. `tensorc_steps` ends with a row of no tasks. */
extern const step tensorc_steps[];
extern const int32_t tensorc_step_count, tensorc_input_count, tensorc_output_count, tensorc_pointer_count;
extern const size_t tensorc_arena_bytes, tensorc_scratch_bytes;

#define TENSORC_API __attribute__((visibility("default")))

typedef struct tensorc_model tensorc_model;

/* A model that runs on `threads` threads, the caller's among them; NULL if memory or threads are not to be had.
 * `weights` must outlive it. */
TENSORC_API tensorc_model *tensorc_open(int threads, const char *weights);

/* One inference; any number may be under way at once. `step_seconds` is NULL or has room for every step, and gets the
 * sum over all times that the step was done. Returns 0, or ENOMEM. */
TENSORC_API int tensorc_run(tensorc_model *model, char *const *inputs, char *const *outputs, double *step_seconds);

/* No run may be under way. */
TENSORC_API void tensorc_close(tensorc_model *model);

#endif
