"""Graph passes: graph in, graph out, nothing of any one target's code generator.

The rooms that every target shares, in the order in which `passes.canonical` puts them:

- `passes.fold`: what is known at compile time becomes a constant; dead nodes go.
- `passes.simplify`: algebra, movement and views brought to one canonical form.
- `passes.batch_norm`: batch normalisation folds into the convolution or matrix product in front of it.
- `passes.cse`: what is computed twice is computed once.
- `passes.recognize`: spelled-out norms, activations, softmax and attention become one operator each.

`passes.rules` holds the rewriting rules that these passes are made of.
"""
