"""Synthetic jets: a toy of what the LHC's detectors see, made here. No event of any experiment is in it.

The jet-tagging networks of the hls4ml literature tell jets of 1 TeV from gluons, light quarks, W and Z bosons and top
quarks apart. Their data set (hls4ml LHC jets) is not this one: here a few formulas stand for the event generator. A
boson decays into two quarks, a top quark into three, with its mass and isotropically in its rest frame; every parton
radiates soft and collinear gluons, gluons more than quarks, and becomes particles; these get lost among some of other
collisions and are smeared. What the network sees is computed from the particles as the literature has it: the mass, the
multiplicity, energy correlation functions (C and D of arXiv:1305.0007 and 1409.6298), N-subjettiness.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

CLASSES = ("gluon", "quark", "W", "Z", "top")
FEATURES = (
    "sum z log z", "C1 beta=0", "C1 beta=1", "C1 beta=2", "C2 beta=1", "C2 beta=2", "D2 beta=1", "D2 beta=2",
    "tau1", "tau21", "tau32", "girth", "sum z^2", "largest z", "mass", "multiplicity",
)  # fmt: skip
#: GeV.
MOMENTUM, MASS_W, MASS_Z, MASS_TOP, MASS_B = 1000.0, 80.4, 91.2, 173.0, 4.7
RADIUS = 0.8
#: Gluons that a parton radiates at most, particles that one becomes at most, and those of a jet that are kept.
EMISSIONS, FRAGMENTS, PARTICLES = 3, 14, 64
TINY = 1e-9


def jets(count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Features [count, 16] as they are computed, and the number of the class of each."""
    labels = rng.integers(0, len(CLASSES), count)
    chunks = [features(*particles(part, rng)) for part in np.array_split(labels, -(-count // 1000))]
    return np.concatenate(chunks), labels


def standardised(values: Array, mean: Array, deviation: Array) -> Array:
    """As the network takes them: within -4..4, in steps of 1/256."""
    return (np.round(np.clip((values - mean) / deviation, -4, 4) * 256) / 256).astype(np.float32)


def particles(labels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Momenta [n, particles] in GeV and places [n, particles, 2] of jets of these classes."""
    n = len(labels)
    momentum, place = partons(labels, rng)
    gluon = np.broadcast_to((labels == 0)[:, None], momentum.shape)
    # Emissions: log-uniform in their share of the momentum and in their angle, more often from gluons.
    shape = (n, momentum.shape[1], EMISSIONS)
    happens = rng.random(shape) < np.where(gluon, 0.62, 0.34)[..., None]
    share = np.where(happens, 0.5 * 0.04 ** rng.random(shape), 0)
    angle = np.where((labels < 2)[:, None, None], RADIUS, 0.25) * 0.0125 ** rng.random(shape)
    emitted = momentum[..., None] * share / (1 + share.sum(-1, keepdims=True))
    places = place[:, :, None] + angle[..., None] * _directions(shape, rng)
    momentum = np.concatenate([momentum - emitted.sum(-1), emitted.reshape(n, -1)], 1)
    place = np.concatenate([place, places.reshape(n, -1, 2)], 1)
    gluon = np.concatenate([gluon, np.ones((n, emitted[0].size), bool)], 1)
    # Fragments: their number grows with the logarithm of the momentum, and they fly some tenths of a GeV across it.
    shape = (*momentum.shape, FRAGMENTS)
    number = 1 + rng.poisson(np.where(gluon, 2.1, 1.2) * np.log1p(momentum / 5))
    weight = np.where(np.arange(FRAGMENTS) < number[..., None], rng.exponential(1, shape) ** 1.8, 0)
    fragment = momentum[..., None] * weight / weight.sum(-1, keepdims=True)
    spread = np.minimum(0.4 / (fragment + TINY), 0.15)
    places = place[:, :, None] + (spread * rng.exponential(1, shape))[..., None] * _directions(shape, rng)
    # Other collisions, then the detector.
    others = rng.exponential(0.7, (n, 10))
    elsewhere = RADIUS * np.sqrt(rng.random((n, 10, 1))) * _directions((n, 10), rng)
    momentum = np.concatenate([fragment.reshape(n, -1), others], 1)
    place = np.concatenate([places.reshape(n, -1, 2), elsewhere], 1)
    momentum = momentum * np.maximum(1 + 0.07 * rng.standard_normal(momentum.shape), 0)
    place = place + 0.004 * rng.standard_normal(place.shape)
    momentum = np.where((momentum > 1) & ((place**2).sum(-1) < RADIUS**2), momentum, 0)
    kept = np.argsort(-momentum, axis=1)[:, :PARTICLES]
    return np.take_along_axis(momentum, kept, 1), np.take_along_axis(place, kept[..., None], 1)


def partons(labels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Momenta [n, 3] and places [n, 3, 2] of the quarks or the gluon that a jet comes from; 0 where there is none."""
    n = len(labels)
    momentum, place = np.zeros((n, 3)), np.zeros((n, 3, 2))
    momentum[:, 0] = MOMENTUM * (1 + 0.05 * rng.standard_normal(n))
    top, boson = labels == 4, labels >= 2
    mass = np.select([labels == 3, boson], [MASS_Z, MASS_W], 0) + 2.3 * np.arctanh(rng.uniform(-0.9, 0.9, n))
    (w, at_w), (b, at_b) = _decay(momentum[:, 0], place[:, 0], MASS_TOP, mass, MASS_B, rng)
    momentum[top, 0], momentum[top, 2] = w[top], b[top]
    place[top, 0], place[top, 2] = at_w[top], at_b[top]
    (one, at_one), (two, at_two) = _decay(momentum[:, 0], place[:, 0], mass, 0, 0, rng)
    momentum[boson, 0], momentum[boson, 1] = one[boson], two[boson]
    place[boson, 0], place[boson, 1] = at_one[boson], at_two[boson]
    return momentum, place


def _decay(momentum: Array, place: Array, mass: Array | float, first: Array | float, second: Array | float,
           rng: np.random.Generator) -> tuple[tuple[Array, Array], tuple[Array, Array]]:  # fmt: skip
    """Momentum and place of the two particles of these masses that a fast one decays into, isotropic at rest."""
    mass = np.maximum(mass, 1.0)
    energy = (mass**2 + first**2 - second**2) / (2 * mass)
    speed = np.sqrt(np.maximum(energy**2 - first**2, 0))
    cosine = rng.uniform(-1, 1, len(momentum))
    share = np.clip((energy + speed * cosine) / mass, 0.01, 0.99)
    across = (speed * np.sqrt(1 - cosine**2))[:, None] * _directions((len(momentum),), rng)
    one, two = share * momentum, (1 - share) * momentum
    return (one, place + across / one[:, None]), (two, place - across / two[:, None])


def _directions(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    angle = rng.uniform(0, 2 * np.pi, shape)
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def features(momentum: Array, place: Array) -> Array:
    """[n, 16], in the order of FEATURES; logarithms of those with long tails."""
    total = momentum.sum(1)
    z = momentum / total[:, None]
    centre = (z[..., None] * place).sum(1, keepdims=True)
    distance = np.linalg.norm(place - centre, axis=-1)
    apart = np.linalg.norm(place[:, :, None] - place[:, None], axis=-1)
    pairs = [_correlation(z, apart**beta) for beta in (1, 2)]
    (e1, triple1), (e2, triple2) = pairs
    tau = [_subjettiness(z, place, axes) for axes in (1, 2, 3)]
    columns = [
        (z * np.log(z + TINY)).sum(1),
        (1 - (z**2).sum(1)) / 2,
        _log(e1),
        _log(e2),
        _log(triple1 / (e1**2 + TINY)),
        _log(triple2 / (e2**2 + TINY)),
        _log(triple1 / (e1**3 + TINY)),
        _log(triple2 / (e2**3 + TINY)),
        _log(tau[0]),
        tau[1] / (tau[0] + TINY),
        tau[2] / (tau[1] + TINY),
        _log((z * distance).sum(1)),
        _log((z**2).sum(1)),
        z.max(1),
        # Of massless particles that are close to each other: m^2 is the sum of p_i p_j d_ij^2 over pairs.
        total * np.sqrt(e2),
        (momentum > 0).sum(1).astype(float),
    ]
    return np.stack(columns, 1)


def _log(x: Array) -> Array:
    return np.log(x + 1e-6)


def _correlation(z: Array, apart: Array) -> tuple[Array, Array]:
    """The energy correlation functions of two and of three particles."""
    root = np.sqrt(z)
    matrix = root[:, :, None] * apart * root[:, None]
    pairs = (z[:, None] @ apart @ z[..., None])[:, 0, 0] / 2
    return pairs, ((matrix @ matrix) * matrix).sum((1, 2)) / 6


def _subjettiness(z: Array, place: Array, axes: int) -> Array:
    """Mean distance to the nearest of so many axes: hard particles far from each other, then their neighbours' mean."""
    nearest = np.full(z.shape, RADIUS)
    chosen = []
    for _ in range(axes):
        hard = (z * nearest**2).argmax(1)
        chosen.append(np.take_along_axis(place, hard[:, None, None], 1))
        nearest = np.minimum(nearest, np.linalg.norm(place - chosen[-1], axis=-1))
    for _ in range(2):
        distance = np.stack([np.linalg.norm(place - axis, axis=-1) for axis in chosen], -1)
        owned = z[..., None] * (distance.argmin(-1)[..., None] == np.arange(axes))
        means = np.einsum("npa,npd->nad", owned, place) / (owned.sum(1)[..., None] + TINY)
        chosen = [means[:, axis, None] for axis in range(axes)]
    distance = np.stack([np.linalg.norm(place - axis, axis=-1) for axis in chosen], -1)
    return (z * distance.min(-1)).sum(1)
