"""The statistic of these tests: correlations of all pairs of fields of noise, at every shift.

A field is the noise of one tile, layer, chip, time or call, as a vector of n numbers. Every field
is compared with every other one, and with itself, at every circular shift, so that a stream is also
found if it begins somewhere in the middle of another one or repeats itself. For independent
Gaussian noise, t = r sqrt((n - 2) / (1 - r^2)) of a correlation r is Student's with n - 2 degrees
of freedom. The bound on |r| is Student's two-sided quantile at 1e-6 over the number of correlations
(Bonferroni): one call of `shared` raises a false alarm once per million runs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from scipy.stats import t as student
from torch import Tensor

FALSE_ALARM = 1e-6  # per call of `shared`, over all pairs and shifts
Fields = Mapping[tuple[object, ...], Tensor]


def bound(n: int, correlations: int) -> float:
    """Return the |r| that one of so many correlations of n numbers exceeds once per million."""
    t = float(student.isf(FALSE_ALARM / 2.0 / correlations, n - 2))
    return t / (n - 2 + t * t) ** 0.5


def shared(fields: Fields) -> list[tuple[float, tuple[object, ...], tuple[object, ...], int]]:
    """Return the pairs of fields whose |r| is above the bound: r, the two names, the shift."""
    names = list(fields)
    values = torch.stack([fields[name].detach().double().flatten() for name in names])
    count, n = values.shape
    values = values - values.mean(1, keepdim=True)
    assert bool((values.norm(dim=1) > 0).all()), "a field without noise"
    waves = torch.fft.rfft(values / values.norm(dim=1, keepdim=True))
    limit = bound(n, count * (count - 1) // 2 * n + count * (n // 2))
    found = []
    for at, name in enumerate(names):
        # one correlation per shift; a field and itself: only shifts, and each of them once
        r = torch.fft.irfft(waves[at].conj() * waves[at:], n=n)
        r[0, 0], r[0, n // 2 + 1 :] = 0.0, 0.0
        largest, shift = r.abs().max(1)
        found += [
            (float(largest[i]), name, names[at + i], int(shift[i]))
            for i in (largest > limit).nonzero().flatten().tolist()
        ]
    return sorted(found, key=lambda pair: -pair[0])


def assert_independent(fields: Fields) -> None:
    """Assert that no two fields share numbers, and none repeats itself."""
    pairs = shared(fields)
    r, first, second, shift = pairs[0] if pairs else (0.0, (), (), 0)
    assert not pairs, f"{len(pairs)} pairs, r = {r:.3f} between {first} and {second}, shift {shift}"


def assert_shared(fields: Fields, among: int) -> None:
    """Assert that pairs share numbers, all of them with names that agree but in entry `among`."""
    pairs = shared(fields)
    others = [
        (a, b) for _, a, b, _ in pairs if a[:among] + a[among + 1 :] != b[:among] + b[among + 1 :]
    ]
    assert pairs, "a planted stream was not found"
    assert not others, others[:3]
