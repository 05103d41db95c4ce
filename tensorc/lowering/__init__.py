"""From graph operators to TIR expressions: what is the same for every target that goes through TVM.

`tir` is the wall around TVM's names, `math` writes transcendental functions as arithmetic that vectorises, and
`indexing` gives every operator that fuses as a function from output indices to an expression. How the loops around
those expressions run is each target's own affair.
"""
