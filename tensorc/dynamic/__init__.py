"""Models that are not one program: shapes that the caller or the data decide, control flow, sequences, strings.

Such a model is compiled in stages. A stage is what can be translated of the model once the types of its inputs are
known, and the values of those few that decide shapes; it is one program with static shapes, like any other model. What
comes behind it is known only when it has run: then its values, or what operators on the host make of them, settle the
next stage. The stages of one model form a tree, in which each way of a run is found again by types and values.
"""
