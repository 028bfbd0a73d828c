"""Every variant beside the torch implementation that its users have: one line per variant and peer.

The arguments are those of the asv suite, 8 heads of width 64 in float32, changed where the peers know less:
most have no n != m, random choices without repetition only, one kernel for keys and values. Numbers are those
of `peers.py`: medians over rounds of calls in turns; relative L2 errors of the first head against xfref in
float64, over the rows that mean the same in both. performer-pytorch and routing-transformer have an epsilon
in their denominators, which is their error. Below the table stand the median over the variants of the ratio
to the fastest peer of each, and the variants that are close. Causal `sinkhorn` is not compared: the package
for it means something else by that.
"""

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import contest
import numpy as np
import peer_modules as peers
from benchmarks import fixed, kernel, learned, lowrank, recurrent
from benchmarks.measure import HEADS, WIDTH, Variant, normal, qkv
from contest import MISSING, OPTIONS, SIDE, Array, Contender, error_of, measure, ours
from torch_forms import (
    NAME,
    sdpa,
    tensors,
    torch,
    torch_flex,
    torch_linear,
    torch_masked,
    torch_sdpa,
    torch_window,
)

import xfref

ROUNDS = contest.rounds(7)


class Row(NamedTuple):
    variant: Variant
    peers: Sequence[Callable[..., list[Contender]]]    # of the arguments and options of the variant
    n: Callable[[int], int] = lambda n: n              # shorter where the peers cannot do more
    alike: Callable[[dict, int], Array] = lambda options, n: slice(None)  # the rows that are compared


# who sees whom: sees(positions of queries, positions of keys), tensors


def pattern(sees: Callable, masked: bool = True) -> Callable[..., list[Contender]]:
    """For sees(i, j, options): SDPA with the whole mask, unless a package knows the pattern, and flex."""
    def make(q, k, v, **options):
        own = lambda i, j: sees(i, j, options)
        return [*(torch_masked(q, k, v, own) if masked else []), *torch_flex(q, k, v, own)]
    return make


def listed(q: Array, k: Array, v: Array, *, indices: Array) -> list[Contender]:
    """Whatever the lists hold, torch is given as a matrix."""
    mask = torch.zeros(q.shape[1], k.shape[1], dtype=torch.bool).scatter(1, torch.from_numpy(indices), True)
    sees = lambda i, j: mask[i, j]
    return [*torch_masked(q, k, v, sees), *torch_flex(q, k, v, sees)]


def some_blocks(q: Array, k: Array, v: Array, *, block: int, random_blocks: Array) -> list[Contender]:
    number = random_blocks.shape[1]
    own = torch.arange(number)
    ends = own % (number - 1) == 0
    seen = ((own[:, None] - own).abs() <= 1) | ends | ends[:, None]
    seen.scatter_(1, torch.from_numpy(random_blocks[0]), True)
    return torch_flex(q, k, v, lambda i, j: seen[i // block, j // block])


def window_and_first(i, j, options):
    return ((i - j).abs() <= options["window"] // 2) | (i == 0) | (j == 0)


def own_stretch_and_summaries(i, j, options):
    stride = options["stride"]
    return (j <= i) & ((i // stride == j // stride) | (j % stride >= stride - options["summary"]))


def recent_and_every_stride(i, j, options):
    return (j <= i) & ((i - j < options["stride"]) | ((i - j) % options["stride"] == 0))


def block_and_neighbours(i, j, options):
    return (i // options["block"] - j // options["block"]).abs() <= 1


def block_and_last(i, j, options):
    return (i // options["block"] - j // options["block"] <= 1) & (j <= i)


def in_plane(i, j, options):
    (_, width), (rows, columns), (above, beside) = options["shape"], options["block"], options["flange"]
    row = j // width - i // width // rows * rows             # counted from the corner of the query's block
    column = j % width - i % width // columns * columns
    upper = (row < 0) & (row >= -above) & (column >= -beside) & (column < columns + beside)
    left = (row >= 0) & (row < rows) & (column < 0) & (column >= -beside)
    return upper | left | (row >= 0) & (row < rows) & (column >= 0) & (column < columns) & (j <= i)


# what torch has no function for, as its users write it


def torch_ring(q: Array, k: Array, v: Array, *, key_embedded: Array, value_embedded: Array, key_relay: Array,
               value_relay: Array) -> list[Contender]:
    q, k, v, *own = tensors(q, k, v, key_embedded, value_embedded, key_relay, value_relay)

    def around(x, embedded, relay):
        return torch.stack([x.roll(1, 1), x, x.roll(-1, 1), embedded, relay.expand_as(x)], 2)

    def call():
        return sdpa(q[:, :, None], around(k, *own[::2]), around(v, *own[1::2]))
    return [Contender(f"{NAME} SDPA, gathered", call, lambda out: out[:, :, 0].numpy())]


def torch_etc(q: Array, k: Array, v: Array, *pairs: Array, radius: int) -> list[Contender]:
    """Two calls, one for the queries of each stream, over the keys of both side by side."""
    q, k, v, global_q, global_k, global_v = tensors(q, k, v, *pairs)
    n, total = q.shape[1], q.shape[1] + global_q.shape[1]
    i, j = torch.arange(n)[:, None], torch.arange(total)
    near = (((i - j).abs() <= radius) & (j < n)) | (j >= n)

    def call():
        keys, values = torch.cat([k, global_k], 1)[None], torch.cat([v, global_v], 1)[None]
        return sdpa(q[None], keys, values, attn_mask=near), sdpa(global_q[None], keys, values)
    return [Contender(f"{NAME} SDPA, mask", call, lambda out: torch.cat(out, 2)[0].numpy())]


def torch_lines(q: Array, k: Array, v: Array, *, shape: tuple[int, int], axis: int) -> list[Contender]:
    turn = (lambda x: x) if axis == 1 else (lambda x: x.transpose(1, 2))
    batch = [turn(x.unflatten(1, shape)) for x in tensors(q, k, v)]
    return [Contender(f"{NAME} SDPA, lines", lambda: turn(sdpa(*batch)),
                      lambda out: out.flatten(1, 2).numpy())]


def torch_span(q: Array, k: Array, v: Array, *, span: Array, ramp: int) -> list[Contender]:
    """The logarithm of the soft mask as a bias, made before: the spans do not depend on the tokens."""
    n, batch = q.shape[1], [x[None] for x in tensors(q, k, v)]
    distance = torch.arange(n)[:, None] - torch.arange(n)
    weight = ((ramp + torch.from_numpy(span)[..., None] - distance) / ramp).clamp(0, 1)
    bias = weight.where(distance >= 1, 0).log()[None]
    return [Contender(f"{NAME} SDPA, bias", lambda: sdpa(*batch, attn_mask=bias),
                      lambda out: out[0].numpy())]


def torch_shaw(q: Array, k: Array, v: Array, *, key_table: Array) -> list[Contender]:
    """The products with the table, laid out by distance, as a bias."""
    n, clip = q.shape[1], len(key_table) // 2
    q, k, v, table = tensors(q, k, v, key_table)
    offset = (torch.arange(n) - torch.arange(n)[:, None]).clamp(-clip, clip) + clip
    offset = offset.expand(len(q), n, n)

    def call():
        bias = (q @ table.mT * q.shape[-1] ** -0.5).gather(2, offset)
        return sdpa(q[None], k[None], v[None], attn_mask=bias[None])
    return [Contender(f"{NAME} SDPA, bias", call, lambda out: out[0].numpy())]


def torch_softmax(v: Array, logits: Array) -> list[Contender]:
    v, logits = tensors(v, logits)
    return [Contender(f"{NAME} softmax", lambda: logits.softmax(-1) @ v, lambda out: out.numpy())]


# the arguments that are not those of the suite


def _other_blocks(n: int) -> dict:
    """Random blocks that a block would not see anyway, each once: the peer counts a repeated one again."""
    rng, block, number = np.random.default_rng(n), fixed.BLOCK, n // fixed.BLOCK
    table = np.zeros((number, fixed.RANDOM), int)
    for t in range(1, number - 1):
        table[t] = rng.choice(np.setdiff1d(np.arange(1, number - 1), [t - 1, t, t + 1]), fixed.RANDOM, False)
    return dict(block=block, random_blocks=table[None])


def _segment(n: int) -> tuple[Array, ...]:
    """A segment of n tokens behind a cache of the longest span."""
    q, k, v = qkv(n + 1024)
    return q[:, 1024:], k, v


def _one_round(n: int) -> dict:
    options = learned._rounds(n)
    return options | dict(buckets=options["buckets"][:, :1], scale=1.0)


def _own_conv(n: int) -> dict:
    """One kernel for keys and values, a null slot of zeros, and the scale of the full width."""
    own = normal(HEADS, lowrank.STRIDE, WIDTH, WIDTH) / (lowrank.STRIDE * WIDTH) ** 0.5
    null = np.zeros((HEADS, 1, WIDTH), np.float32)
    return dict(key_kernel=own, value_kernel=own, null_key=null, null_value=null,
                scale=(HEADS * WIDTH) ** -0.5)


def _small(n: int) -> tuple[Array, ...]:
    """Random features vary with the exponential of the squared norms."""
    q, k, v = qkv(n)
    return q * np.float32(0.3), k * np.float32(0.3), v


def _values_are_keys(n: int) -> tuple[Array, ...]:
    q, k, _ = qkv(n)
    return q, k, k.copy()


def _memories(n: int) -> dict:
    options = recurrent._memories(n)
    return {name: options[name] for name in ("memory", "compressed", "relative_keys")}


def _not_wrapped(options: dict, n: int) -> Array:
    """The queries outside the first chunk of each round: there the peers see the last chunk of another."""
    place = np.argsort(np.argsort(options["buckets"][0], axis=-1, kind="stable"), axis=-1)
    return (place >= options["chunk"]).all(axis=0)


def _has_past(options: dict, n: int) -> Array:
    return np.arange(n) > 0


def _with(variants: dict[str, Variant], name: str, **more) -> Variant:
    """A variant of the suite with more options, or other ones."""
    variant = variants[name]
    return variant._replace(options=lambda n: variant.options(n) | more)


ROWS = {
    "adaptive_span": Row(fixed.VARIANTS["adaptive_span"], [torch_span], alike=_has_past),
    "adaptive_span, positions": Row(fixed.VARIANTS["adaptive_span, positions"]._replace(arguments=_segment),
                                    [peers.adaptive_span], n=lambda n: n // 8),
    "attention": Row(Variant("attention"), [torch_sdpa]),
    "attention, causal": Row(Variant("attention", lambda n: dict(causal=True)), [torch_sdpa]),
    "axial, columns": Row(fixed.VARIANTS["axial, columns"], [torch_lines, peers.axial_attention]),
    "axial, rows": Row(fixed.VARIANTS["axial, rows"], [torch_lines, peers.axial_attention]),
    "bigbird": Row(Variant("bigbird", _other_blocks), [peers.hf_bigbird, some_blocks]),
    "block_local": Row(_with(fixed.VARIANTS, "block_local", before=1, after=1), [
        lambda q, k, v, block, **_: peers.local_attention(q, k, v, window=block),
        pattern(block_and_neighbours, masked=False)]),
    "compressive_transformer": Row(Variant("compressive_transformer", _memories),
                                   [peers.compressive_transformer], n=lambda n: n // 4),
    "etc": Row(fixed.VARIANTS["etc"], [torch_etc]),
    "image_1d": Row(fixed.VARIANTS["image_1d"], [
        lambda q, k, v, block, **_: peers.local_attention(q, k, v, window=block, after=0, causal=True),
        pattern(block_and_last, masked=False)]),
    "image_2d": Row(fixed.VARIANTS["image_2d"], [pattern(in_plane)]),
    "linear_transformer": Row(kernel.VARIANTS["linear_transformer"], [
        peers.fast_transformers, lambda *qkv: torch_linear(*qkv, causal=False)]),
    "linear_transformer, causal": Row(kernel.VARIANTS["linear_transformer, causal"],
                                      [peers.fast_transformers, torch_linear]),
    "linformer": Row(lowrank.VARIANTS["linformer"], [peers.linformer]),
    "longformer": Row(fixed.VARIANTS["longformer"], [
        peers.hf_longformer, pattern(window_and_first, masked=False)]),
    # blocks of three
    "memory_compressed": Row(Variant("memory_compressed", _own_conv), [peers.memory_compressed],
                             n=lambda n: n - n % 3),
    "memory_compressed, causal": Row(Variant("memory_compressed", lambda n: _own_conv(n) | dict(causal=True)),
                                     [peers.memory_compressed], n=lambda n: n - n % 3),
    "performer": Row(kernel.VARIANTS["performer"]._replace(arguments=_small), [peers.performer_pytorch]),
    "performer, causal": Row(kernel.VARIANTS["performer, causal"]._replace(arguments=_small),
                             [peers.performer_pytorch]),
    "random_tokens": Row(fixed.VARIANTS["random_tokens"], [listed]),
    "reformer": Row(learned.VARIANTS["reformer"], [peers.reformer_pytorch], alike=_not_wrapped),
    "reformer, one round": Row(learned.VARIANTS["reformer"]._replace(options=_one_round), [peers.hf_reformer],
                               alike=_not_wrapped),
    "routing": Row(learned.VARIANTS["routing"], [peers.routing_transformer]),
    "shaw": Row(Variant("shaw", lambda n: dict(key_table=normal(33, WIDTH))), [torch_shaw]),
    "shaw, short": Row(Variant("shaw", lambda n: dict(key_table=normal(33, WIDTH))), [peers.conformer],
                       n=lambda n: n // 4),
    "sinkhorn": Row(learned.VARIANTS["sinkhorn"]._replace(arguments=_values_are_keys),
                    [peers.sinkhorn_transformer]),
    "sinkhorn_cut": Row(learned.VARIANTS["sinkhorn_cut"], [peers.sinkhorn_transformer]),
    "sliding_window": Row(Variant("sliding_window", lambda n: dict(left=SIDE, right=SIDE)), [
        lambda q, k, v, **_: torch_window(q, k, v),
        lambda q, k, v, left, **_: peers.local_attention(q, k, v, window=left, exact=True)]),
    "sparse_fixed": Row(fixed.VARIANTS["sparse_fixed"], [pattern(own_stretch_and_summaries)]),
    "sparse_strided": Row(fixed.VARIANTS["sparse_strided"], [pattern(recent_and_every_stride)]),
    "star_ring": Row(fixed.VARIANTS["star_ring"], [torch_ring, peers.fastnlp_ring]),
    "synthesizer": Row(lowrank.VARIANTS["synthesizer"], [torch_softmax]),
    "transformer_xl": Row(recurrent.VARIANTS["transformer_xl"], [peers.hf_xlnet]),
}


_PEAK = "Both run near the peak of multiply-adds, which the comparisons `full` and `causal` print."
_LINES = "Each line is one tile: half the time is reading q, k and v and writing the result once, in both."
CLOSE = 1.5  # below it the table says why, where that was found out: with one thread, by the parts of a call
WHY = {
    "attention": _PEAK, "attention, causal": _PEAK, "axial, columns": _LINES, "axial, rows": _LINES,
    "sinkhorn": "A third of the time is mixing the blocks, a quarter the first use of their memory.",
    "linear_transformer": "Half of the time is two products, of which the compiled form has as many.",
}


def first_head(x):
    """Of an array that has one part per head, the first; numbers in float64."""
    if isinstance(x, tuple) and isinstance(x[0], np.ndarray):
        return tuple(map(first_head, x))
    if not isinstance(x, np.ndarray):
        return x
    x = x[:1] if len(x) == HEADS else x
    return x.astype(np.float64) if x.dtype == np.float32 else x


def joined(out):
    """Several results follow one another along the length."""
    return np.concatenate(out, axis=-2) if isinstance(out, tuple) else out


def found_peers(name: str, row: Row, arguments: tuple, options: dict) -> list[Contender]:
    """Those that are installed and answer; of the others, a line at the end says why they are missing."""
    found = []
    for peer in row.peers if torch else ():
        try:
            made = peer(*arguments, **options)
            for contender in made:
                contender.call()
            found += made
        except ImportError as error:
            package = (error.name or name).partition(".")[0]
            MISSING[package] = f"{error}; {peers.HINTS.get(package, 'the extra `peers` brings it')}"
        except Exception as error:  # packages that nobody maintains, on whatever torch there is
            MISSING[f"a peer of {name}"] = f"it failed: {type(error).__name__}: {error}"
    return found


def compare_one(name: str, row: Row) -> float | None:
    """The lines of a variant, its fastest peer first; the ratio of that one's time to xfaccel's."""
    n = row.n(OPTIONS.n)
    arguments, options = row.variant.arguments(n), row.variant.options(n)
    own = ours(row.variant.function, arguments, **options)._replace(result=joined)
    contenders = [own, *found_peers(name, row, arguments, options)]
    exact = joined(getattr(xfref, row.variant.function)(
        *map(first_head, arguments), **{key: first_head(x) for key, x in options.items()}))[0]
    alike = row.alike(options, n)
    errors = [error_of(x, exact, alike) for x in contenders]
    seconds = measure(contenders, ROUNDS)
    times, ratios = np.median(seconds, axis=0) * 1e3, np.median(seconds / seconds[:, :1], axis=0)
    m = exact.shape[-2] if row.variant.function == "synthesizer" else arguments[1].shape[-2]
    start = f"{name:26}{n if m == n else f'{n} of {m}':>12}{times[0]:9.2f}"
    for place in np.argsort(ratios):
        if place:
            print(f"{start}{times[place]:9.2f}{ratios[place]:7.2f}{errors[0]:9.0e}{errors[place]:9.0e}  "
                  f"{contenders[place].name}")
    if len(contenders) == 1:
        print(f"{start}{'':16}{errors[0]:9.0e}{'':9}  no peer is installed")
    sys.stdout.flush()
    return min(ratios[1:], default=None)


def compare() -> None:
    """A table of all rows, or of those whose own name or whose function's is in --names."""
    known = {name: {name, row.variant.function} for name, row in ROWS.items()}
    if unknown := set(OPTIONS.names).difference(*known.values()):
        raise SystemExit(f"no such variant: {', '.join(sorted(unknown))}; there are\n  " + "\n  ".join(ROWS))
    wanted = sorted(name for name in ROWS if not OPTIONS.names or known[name] & set(OPTIONS.names))
    print(f"\nvariants: {HEADS} heads of width {WIDTH}, float32, {OPTIONS.threads} threads; medians of "
          f"{ROUNDS} rounds; ratio: time over that of xfaccel\n"
          f"{'':26}{'n':>12}{'ms':>9}{'peer ms':>9}{'ratio':>7}{'error':>9}{'its':>9}")
    ratios = {name: ratio for name in wanted if (ratio := compare_one(name, ROWS[name]))}
    if ratios:
        print(f"{'median, fastest peers':26}{'':30}{np.median(list(ratios.values())):7.2f}")
    for name, ratio in ratios.items():
        if ratio < CLOSE:
            print(f"{'the peer is faster' if ratio < 1 else f'under {CLOSE}'}: {name}, {ratio:.2f}. "
                  f"{WHY.get(name, '')}")
