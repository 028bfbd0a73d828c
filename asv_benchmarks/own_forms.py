"""xfaccel beside itself: what a relative term costs, and what numbers of 16 and 8 bits do.

Comparisons of `peers.py`. A term's share is the speed of a call with it over that of the same tiles
without it, the median over rounds of calls in turns: 1 is a term that costs nothing. Of 16 bits every
contender gets the same numbers, rounded; its error is the relative L2 error of the first head against
float64, in which the rounding of the result is most.
"""

import sys

import numpy as np
from contest import OPTIONS, Array, Contender, error_of, load, measure, ours
from torch_forms import NAME, sdpa, torch

import xfaccel

SPAN, RAMP, CLIP, GLOBALS = 256, 32, 16, 64


def terms(rounds: int) -> None:
    """Speed with each term over the speed of the same tiles without it."""
    rng, n, d = np.random.default_rng(0), OPTIONS.n, OPTIONS.width
    draw = lambda *shape: rng.standard_normal(shape, np.float32)
    q, k, v = own = draw(3, OPTIONS.heads, n, d)
    tokens = [draw(OPTIONS.heads, GLOBALS, d) for _ in range(3)]
    past = ours("attention", own, causal=True)
    band = ours("sliding_window", own, left=SPAN + RAMP, right=0)
    table, by_distance = draw(2 * CLIP + 1, d), dict(relative_keys=draw(n, d))
    etc = dict(radius=84)
    labels = dict(long_bias=draw(n, 2 * etc["radius"] + 1), long_to_global_bias=draw(n, GLOBALS),
                  global_to_long_bias=draw(GLOBALS, n))
    pairs = {
        "transformer_xl": (ours("transformer_xl", own, **by_distance), past),
        "transformer_xl, with biases": (ours("transformer_xl", own, content_bias=draw(d),
                                             position_bias=draw(d), **by_distance), past),
        "shaw, keys": (ours("shaw", own, key_table=table), ours("attention", own)),
        "shaw, keys and values": (ours("shaw", own, key_table=table, value_table=table),
                                  ours("attention", own)),
        "adaptive_span": (ours("adaptive_span", own, span=float(SPAN), ramp=RAMP), band),
        "adaptive_span, positions": (ours("adaptive_span", own, span=float(SPAN), ramp=RAMP,
                                          position_keys=draw(SPAN + RAMP, d)), band),
        "etc, labels": (ours("etc", (*own, *tokens), **etc, **labels), ours("etc", (*own, *tokens), **etc)),
    }
    print(f"\n{f'terms, n = {n}':32}{'ms':>10}{'without':>10}{'share':>8}")
    for name, pair in pairs.items():
        seconds = measure(pair, rounds)
        with_it, without = np.median(seconds, axis=0) * 1e3
        share = np.median(seconds[:, 1] / seconds[:, 0])
        print(f"{name:32}{with_it:10.3f}{without:10.3f}{share:8.2f}", flush=True)


def small_keys(q: Array, k: Array, v: Array) -> list[Contender]:
    """Attention to keys and values of 8 and of 16 bits. In the latter case q has 16 bits as well."""
    codes = xfaccel.quantize_rows(k), xfaccel.quantize_rows(v)
    contenders = [ours("attention", (q, *codes))._replace(name="xfaccel, int8 keys and values")]
    if bfloat16 := load("ml_dtypes", "it brings bfloat16 to NumPy"):
        narrow = tuple(x.astype(bfloat16.bfloat16) for x in (q, k, v))
        contenders.append(Contender("xfaccel, bfloat16", ours("attention", narrow).call,
                                    lambda out: out.astype(np.float32)))
    return contenders


def half(n: int, truth: Array, rounds: int) -> None:
    """Exact attention on numbers of 16 bits, beside float32 and beside torch; `truth(q, k, v)` in float64."""
    bfloat16 = load("ml_dtypes", "it brings bfloat16 to NumPy")
    wide = np.random.default_rng(0).standard_normal((3, OPTIONS.heads, n, OPTIONS.width), np.float32)
    kinds = [np.dtype(np.float16)] + ([np.dtype(bfloat16.bfloat16)] if bfloat16 else [])
    for dtype in kinds:
        narrow = tuple(wide.astype(dtype))
        contenders = [ours("attention", narrow)._replace(result=lambda out: out.astype(np.float32)),
                      ours("attention", tuple(x.astype(np.float32) for x in narrow))._replace(
                          name="xfaccel, float32")]
        if torch:
            kind = getattr(torch, dtype.name)
            batch = [torch.from_numpy(x.astype(np.float32))[None].to(kind) for x in narrow]
            contenders.append(Contender(f"{NAME} SDPA", lambda batch=batch: sdpa(*batch),
                                        lambda out: out[0].float().numpy()))
        exact = truth(*(x.astype(np.float32) for x in narrow))
        errors = [error_of(x, exact) for x in contenders]
        seconds = measure(contenders, rounds)
        print(f"\n{f'{dtype.name}, n = {n}':32}{'ms':>10}{'ratio':>8}{'error':>10}")
        for place, (contender, error) in enumerate(zip(contenders, errors, strict=True)):
            own = seconds[:, place]
            ratio = np.median(own / seconds[:, 0])
            print(f"{contender.name:32}{np.median(own) * 1e3:10.3f}{ratio:8.2f}{error:10.1e}")
        sys.stdout.flush()
