"""From fused groups to layers, and from a layer and how far it is unrolled to a process of the scheduled program."""
