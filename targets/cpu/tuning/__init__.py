"""Candidates of CPU kernels, built and timed in processes of their own.

A job is a folder with everything that it takes to time the candidates of one workload: one shared object in which each
of them is a step, the numbers they read and those they must give.

data        random inputs of a workload, and the outputs expected of it
jobs        from a body and schedules to a job
stepper.c   the executor, one step at a time
builder     the worker process that lowers and compiles; `pool` shares out work among several
measure     times a job; the worker process that does, and the script in a bundle, which needs Python and numpy only
measurer    what the search asks: batches in, outcomes out
bundle      jobs to be timed on another machine, and the answers from there
"""
