"""What the laws share: the list of who is held by which, closeness, and attention in plain loops.

`@law` notes which public names a test is a law of; the house rules ask for one of each.
"""

import math

import numpy as np
from cases import Shape, draw_qkv

LAWS = {}


def law(*names):
    def note(test):
        for name in names:
            LAWS.setdefault(name, []).append(test.__name__)
        return test

    return note


def close(a, b, tolerance=1e-12):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, strict=True)


def qkv(rng, n=12, m=None, d=4, e=5, lead=(2, 3), size=1.0):
    return draw_qkv(rng, np.float64, Shape(n, n if m is None else m, d, e, lead, lead), size)


def loops(q, k, v, sees, scale=None, key_mask=None):
    """Attention of (n,d), (m,d), (m,e) from sees(position of the query, position of the key)."""
    n, m, scale = len(q), len(k), q.shape[-1] ** -0.5 if scale is None else scale
    out = np.zeros((n, v.shape[-1]))
    for i in range(n):
        weights = {j: math.exp(scale * sum(a * b for a, b in zip(q[i], k[j], strict=True)))
                   for j in range(m) if sees(i + m - n, j) and (key_mask is None or key_mask[j])}
        for j, weight in weights.items():
            out[i] += weight * v[j] / sum(weights.values())
    return out


def holds(function, args, options, sees):
    out = function(*args, **options)
    known = {name: options.get(name) for name in ("scale", "key_mask")}
    for place in np.ndindex(out.shape[:-2]):
        own = loops(*(x[place] for x in args), lambda p, j, place=place: sees(p, j, *place), **known)
        close(out[place], own)
