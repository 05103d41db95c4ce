"""Schedule search: spaces of schedules, a database of measurements, cost models, and the search that joins them.

    space      what may be chosen for one workload, as knobs
    records    one measurement; its JSON form
    database   records in SQLite, shared between runs and machines
    model      what a cost model promises
    measure    builds and times candidates in worker processes
    tuner      which workload gets the next trials, which candidates they are, and when to stop

Nothing here knows a target: a target gives spaces, features and kernels (see `tensorc.target.Tunable`).
"""
