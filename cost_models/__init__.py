"""Models that predict how long a schedule takes.

analytic        cycles from the machine's width and registers; picks every schedule that no measurement has picked
xgboost_model   learns where the estimate is wrong, and is corrected by each run's measurements
controls        what a model must beat: chance, and the estimate alone
metrics         how good a model is, and splits that hold out whole networks
"""
