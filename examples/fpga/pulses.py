"""Synthetic detector pulses: what a digitiser records of them, and what they were without noise. Made here.

A shaper turns each hit of a calorimeter cell into a pulse (t / peak)^2 exp(2 (1 - t / peak)), which is what a CR-RC^2
filter gives; the converter samples 64 of its values. Often a second hit comes soon after the first. Added to that are a
baseline that drifts, noise that is white and noise that is correlated as behind a filter, and the converter's rounding.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

SAMPLES = 64
#: Steps of the converter; its range of -1..3 is 1,024 of them.
STEP = 1 / 256
#: Of white noise, and of correlated noise.
NOISE = 0.06, 0.05


def pulses(count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Recorded and clean pulses, both [count, 1, 64] float32: the recorded ones in whole steps, the clean ones rounded
    to float16."""
    clean = _pulse(count, rng, rng.uniform(4, 40, count))
    second = _pulse(count, rng, rng.uniform(16, 60, count))
    clean = clean + np.where(rng.random((count, 1)) < 0.4, second, 0)
    time = np.linspace(-1, 1, SAMPLES)
    baseline = 0.1 * rng.standard_normal((count, 1)) + 0.06 * rng.standard_normal((count, 1)) * time
    white, correlated = NOISE
    smooth = rng.standard_normal((count, SAMPLES + 4))
    smooth = sum(smooth[:, tap : tap + SAMPLES] for tap in range(5)) / np.sqrt(5)
    recorded = clean + baseline + white * rng.standard_normal(clean.shape) + correlated * smooth
    recorded = np.round(np.clip(recorded, -1, 3 - STEP) / STEP) * STEP
    return recorded[:, None].astype(np.float32), clean[:, None].astype(np.float16).astype(np.float32)


def _pulse(count: int, rng: np.random.Generator, start: Array) -> Array:
    """[count, 64]; amplitudes of 0.15 to 1.8, small ones more often."""
    amplitude = np.minimum(0.15 + rng.exponential(0.45, (count, 1)), 1.8)
    peak = rng.uniform(3.5, 5.5, (count, 1))
    late = np.maximum(np.arange(SAMPLES) - start[:, None], 0) / peak
    return amplitude * late**2 * np.exp(2 * (1 - late))
