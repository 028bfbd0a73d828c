"""transformers' LSHSelfAttention; reformer-pytorch's LSHAttention; functions of trax, the authors' own.

All three take the last chunk for the one before the first. Where they look back, a whole chunk of masked
tokens comes last in the order, so that this chunk is hidden; or there are two chunks, which see each other.
"""

import ast
import contextlib
import hashlib
import types
from unittest import mock

import numpy as np
from frame import case, generator, randomise, tensor

TRAX_FILE = "trax/layers/research/efficient_attention.py"
TRAX_DIGEST = "24ed76749a9d4e9d6ad0445a7ba8435474a202db6b1083201a2342d1508ef6a0"
TRAX_FUNCTIONS = ("length_normalized", "hash_vecs", "look_adjacent", "mask_self_attention", "attend")
COUNTS = (2e-9, "float64, but the peer subtracts log(N + 1e-9)")


def np_buckets(x, rotations):
    """(..., n, d), (..., d, R, b / 2) -> (..., R, n)"""
    along = np.einsum("...nd,...drb->...rnb", x, rotations)
    return np.argmax(np.concatenate([along, -along], axis=-1), axis=-1)


def np_reformer(qk, v, buckets, chunk, *, before=1, after=0, across=True, causal=False, valid=None,
                scale=None, epsilon=0.0, counted=False):
    """Row by row: the sets of all rounds, `counted` as often as rounds find a key."""
    *lead, n, d = qk.shape
    buckets = np.broadcast_to(buckets, (*lead, *buckets.shape[-2:]))
    valid = np.ones((*lead, n), bool) if valid is None else np.broadcast_to(valid, (*lead, n))
    out = np.zeros(v.shape)
    for entry in np.ndindex(*lead):
        times = np.zeros((n, n))
        for one in buckets[entry]:
            slot = np.empty(n, int)
            slot[np.lexsort((np.arange(n), one))] = np.arange(n)
            distance = slot // chunk - (slot // chunk)[:, None]
            times += (-before <= distance) & (distance <= after) & (across | (one == one[:, None]))
        times[:, ~valid[entry]] = 0
        if causal:
            times = np.tril(times)
        for i, found in enumerate(times):
            others = np.where(np.arange(n) == i, 0.0, found)
            weights = others if others.any() else found
            if not counted:
                weights = weights > 0
            x = qk[entry]
            scores = x @ x[i] / np.sqrt((x**2).sum(-1) + d * epsilon) * (d**-0.5 if scale is None else scale)
            weights = weights * np.exp(scores - scores.max())
            if weights.any():
                out[entry][i] = weights @ v[entry] / weights.sum()
    return out


def record(peer, qk, v, buckets, out, restated, call, **options):
    arrays = {"qk": qk, "v": v, "buckets": buckets}
    if "key_mask" in call:
        arrays["key_mask"] = call.pop("key_mask")
    call = {"inputs": ["qk", "v"], "arrays": sorted(set(arrays) - {"qk", "v"})} | call
    return case(peer, arrays, out, restated, call, **options)


@contextlib.contextmanager
def drawing(rotations):
    """torch.randn gives these rotations."""
    import torch

    with mock.patch.object(torch, "randn", lambda shape, **_: tensor(rotations).reshape(shape)):
        yield


def trax_functions(peer_dir):
    """The functions of the file that need neither trax nor tensorflow, under jax."""
    import jax

    jax.config.update("jax_enable_x64", True)
    source = (peer_dir / "trax" / TRAX_FILE).read_bytes()
    if hashlib.sha256(source).hexdigest() != TRAX_DIGEST:
        raise SystemExit(f"{TRAX_FILE} is not the version that this script was written against")
    tree = ast.parse(source)
    tree.body = [node for node in tree.body
                 if isinstance(node, ast.FunctionDef) and node.name in TRAX_FUNCTIONS]
    fastmath = types.SimpleNamespace(
        lt=jax.numpy.less, logsumexp=jax.scipy.special.logsumexp, is_backend=lambda _: True,
        Backend=types.SimpleNamespace(JAX=None),
        random=types.SimpleNamespace(normal=lambda rng, shape: jax.numpy.reshape(rng, shape)))
    names = {"np": jax.numpy, "fastmath": fastmath}
    exec(compile(tree, TRAX_FILE, "exec"), names)
    return types.SimpleNamespace(**{name: names[name] for name in TRAX_FUNCTIONS})


def cases(peer_dir):
    import torch
    from transformers import ReformerConfig
    from transformers.models.reformer.modeling_reformer import LSHSelfAttention

    cases = {}

    def sharp(self, x, epsilon=0.0):
        """The peer adds 1e-6 to the mean square of a key; without it, its numbers are those of the paper."""
        return x * torch.rsqrt(torch.mean(x**2, -1, keepdim=True))

    def add_hf(name, n, rounds, *, before=0, after=0, causal=False, padded=None, released=False, small=1.0):
        rng = generator("reformer/" + name)
        config = ReformerConfig(
            hidden_size=8, num_attention_heads=2, attention_head_size=4, num_hashes=rounds, num_buckets=6,
            lsh_attn_chunk_length=4, lsh_num_chunks_before=before, lsh_num_chunks_after=after,
            is_decoder=causal, lsh_attention_probs_dropout_prob=0.0,
        )
        layer = randomise(LSHSelfAttention(config), rng)
        layer.value.weight.mul_(small)
        x, rotations = tensor(rng.standard_normal((2, n, 8))), rng.standard_normal((2, 4, rounds, 3))
        exact = mock.patch.object(LSHSelfAttention, "_len_norm", sharp)
        with contextlib.nullcontext() if released else exact, drawing(rotations):
            done = layer(x, attention_mask=None if padded is None else tensor(padded).long())
        per_head = lambda y: y.unflatten(-1, (2, 4)).transpose(1, 2).contiguous().numpy()
        qk, v, out = (per_head(y) for y in (layer.query_key(x), layer.value(x), done.hidden_states))
        buckets, extra = np_buckets(qk, rotations), {}
        call = {"chunk": 4, "before": before, "after": after, "causal": causal, "scale": 1.0}
        if padded is not None:
            buckets = np.where(padded[:, None, None, :], buckets, 6)  # a bucket of their own, the last
            call["key_mask"] = padded[:, None, :]
            extra["rows"] = np.repeat(padded[:, None, :], 2, axis=1)
        numbered = buckets + (6 + (padded is not None)) * np.arange(rounds)[:, None]
        if not np.array_equal(done.buckets.numpy(), numbered):
            raise AssertionError("the peer's buckets are not those of its rotations")
        options = dict(before=before, after=after, causal=causal, scale=1.0,
                       valid=None if padded is None else padded[:, None])
        plain = np_reformer(qk, v, buckets, 4, **options)
        counted = rounds > 1
        restated = np_reformer(
            qk, v, buckets, 4, counted=counted, epsilon=1e-6 if released else 0.0, **options
        )
        if released or counted:
            extra["paper"] = plain
        cases[name] = record("transformers", qk, v, buckets, out, restated, call, **extra)

    # at least one chunk of each sequence is padding: at its end, and anywhere
    padded = np.ones((2, 24), bool)
    padded[0, 20:] = False
    padded[1, [2, 3, 7, 11, 16, 21]] = False
    add_hf("hf_padded", 24, 1, before=1, padded=padded)
    add_hf("hf_padded_both_sides_causal", 24, 1, before=1, after=1, causal=True, padded=padded)
    add_hf("hf_released", 16, 1, released=True)
    # small values, and so a small difference between what the peer counts and the union
    add_hf("hf_counted", 24, 3, before=1, padded=padded, small=0.02)

    def add_lucidrains(name, *, causal=False, across=True):
        from reformer_pytorch import LSHAttention

        rng = generator("reformer/" + name)
        entries, n, d, rounds, size = 2, 32, 8, 2, 4
        rotations = rng.standard_normal((d, rounds, n // size // 2))
        flat = rotations.reshape(d, -1)
        # the last chunk is masked and lies in the last bucket of each round, where no other token is
        wanted = np.zeros((rounds, n // size // 2))
        wanted[:, -1] = -1.0
        pad = np.linalg.solve(flat.T, wanted.ravel())
        qk, v = rng.standard_normal((2, entries, n, d))
        while (last := (np_buckets(qk, rotations) == n // size - 1).any(axis=-2)).any():
            qk[last] = rng.standard_normal((last.sum(), d))
        qk[:, -size:] = pad * rng.uniform(1, 2, (entries, size, 1))
        valid = np.arange(n) < n - size
        buckets = np_buckets(qk, rotations)
        peer = LSHAttention(bucket_size=size, n_hashes=rounds, causal=causal, allow_duplicate_attention=False,
                            attend_across_buckets=across)
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)  # of the logarithm of the counts
        try:
            with drawing(rotations):
                mask = tensor(np.tile(valid, (entries, 1)))
                out, _, numbered = peer(tensor(qk), tensor(v), input_mask=mask)
        finally:
            torch.set_default_dtype(default)
        offsets = n // size * np.arange(rounds)[:, None]
        if not np.array_equal(numbered.numpy().reshape(buckets.shape), buckets + offsets):
            raise AssertionError("the peer's buckets are not those of its rotations")
        restated = np_reformer(qk, v, buckets, size, across=across, causal=causal, valid=valid)
        call = {"chunk": size, "causal": causal, "across_buckets": across, "key_mask": valid}
        cases[name] = record("reformer-pytorch", qk, v, buckets, out.numpy(), restated, call,
                             tolerance=COUNTS, rows=np.tile(valid, (entries, 1)))

    add_lucidrains("union")
    add_lucidrains("union_causal", causal=True)
    add_lucidrains("union_own_bucket", across=False)
    add_lucidrains("union_own_bucket_causal", across=False, causal=True)

    trax = trax_functions(peer_dir)

    def add_trax(name, n, chunk, *, before=0, causal=False):
        rng = generator("reformer/" + name)
        qk, v = rng.standard_normal((2, 2, n, 5))
        rotations = rng.standard_normal((5, 1, 3)).astype(np.float32).astype(float)
        out, buckets = np.empty(v.shape), np_buckets(qk, rotations)
        for entry in range(2):
            if not np.array_equal(trax.hash_vecs(qk[entry], 6, 1, rotations)[0], buckets[entry]):
                raise AssertionError("the peer's buckets are not those of its rotations")
            order = np.argsort(buckets[entry, 0], kind="stable")
            out[entry][order], _ = trax.attend(
                qk[entry][order], v=v[entry][order], q_chunk_len=chunk, n_chunks_before=before,
                q_info=order.copy(),
                mask_fn=lambda dots, q, k: trax.mask_self_attention(dots, q, k, causal=causal))
        # of two chunks, the one before the first is, wrapped around, the one after it
        options = dict(before=before, after=before, causal=causal, scale=1.0)
        plain, restated = (np_reformer(qk, v, buckets, chunk, epsilon=x, **options) for x in (0.0, 1e-6))
        cases[name] = record("trax", qk, v, buckets, out, restated, {"chunk": chunk} | options, paper=plain)

    add_trax("trax_own_chunk", 15, 5)
    add_trax("trax_own_chunk_causal", 15, 5, causal=True)
    add_trax("trax_two_chunks", 12, 6, before=1)

    rng = generator("reformer/trax_buckets")
    x = rng.standard_normal((2, 20, 5))
    rotations = rng.standard_normal((5, 3, 4)).astype(np.float32).astype(float)  # the peer rounds them
    out = np.stack([trax.hash_vecs(entry, 8, 3, rotations)[0] for entry in x])
    cases["trax_buckets"] = case("trax", {"x": x, "rotations": rotations}, out, np_buckets(x, rotations),
                                 {"function": "lsh_buckets", "inputs": ["x", "rotations"]})
    return cases
