"""Batch tuning: many models, targets and shapes from one file, on this machine or on a cluster.

`job` says what a job is and reads jobs.toml, `result` what came of one, `local` runs jobs one after the other here, and
`ray` runs them on the machines of a Ray cluster.
"""
