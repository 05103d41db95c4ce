"""Models that predict how long a schedule takes.

`analytic` computes from the machine's width and registers, and picks every schedule that no measurement has picked.
"""
