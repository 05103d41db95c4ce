"""Schedule search: what may be chosen, what was measured, and who predicts the rest.

space      what may be chosen for one workload, as knobs
records    one measurement; its JSON form
database   records in SQLite, shared between runs and machines
model      what a cost model promises
"""
