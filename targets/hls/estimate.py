from targets.hls.resources import Resources


def estimate(program, designs, part): return Resources()
