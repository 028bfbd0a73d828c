"""sinkhorn-transformer's balancing and attention; torch with explicit masks."""

import inspect
from unittest import mock

import numpy as np
from frame import case, generator, heads_qkv, np_attention, qkv_case, tensor, torch_attention


def np_sorted(sort, x, block):
    """(B,H,N,block,w): block by block, the sum of the blocks of x (B,H,n,w) weighed by a row of `sort`."""
    blocks = sort.shape[-1]
    x = np.concatenate([x, np.zeros((*x.shape[:2], blocks * block - x.shape[2], x.shape[3]))], axis=2)
    pieces = np.split(x, blocks, axis=2)
    return np.stack([sum(sort[..., u, w, None, None] * piece for w, piece in enumerate(pieces))
                     for u in range(blocks)], axis=2)


def np_mask(sort, present, block):
    """(B,H,N,block): a slot is there if it is in the largest source of its block."""
    batch, heads, blocks, _ = sort.shape
    present = np.concatenate([present, np.zeros((batch, blocks * block - present.shape[1]), bool)], axis=1)
    found = np.zeros((batch, heads, blocks, block), bool)
    for b, h, u in np.ndindex(batch, heads, blocks):
        first = int(np.argmax(sort[b, h, u])) * block
        found[b, h, u] = present[b, first:first + block] & (sort[b, h, u].max() > 0)
    return found


def np_sinkhorn(q, k, v, sort, block, *, present=None, causal=False, keep=None, values_from=None):
    """Query by query; `values_from` takes the place of v in the sorted blocks, as in the released code."""
    n = q.shape[2]
    present = np.ones((len(q), n), bool) if present is None else present
    sort = np.tril(sort, -1) if causal else sort
    sorted_k, sorted_v = np_sorted(sort, k, block), np_sorted(sort, v if values_from is None else values_from,
                                                              block)
    there = np_mask(sort, present, block)
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, h, i in np.ndindex(*q.shape[:3]):
        blocks = [i // block] if keep is None else range(keep)
        keys = [sorted_k[b, h, u][there[b, h, u]] for u in blocks]
        values = [sorted_v[b, h, u][there[b, h, u]] for u in blocks]
        if keep is None:
            own = [j for j in range(n) if j // block == i // block and present[b, j]
                   and (j <= i or not causal)]
            keys, values = [*keys, k[b, h, own]], [*values, v[b, h, own]]
        keys, values = np.concatenate(keys), np.concatenate(values)
        if len(keys):
            out[b, h, i] = np_attention(q[b, h, i:i + 1], keys, values)[0][0]
    return out


def np_balanced(logits, iterations):
    p = np.exp(logits)
    for _ in range(iterations):
        p = p / p.sum(-1, keepdims=True)
        p = p / p.sum(-2, keepdims=True)
    return p


def cases(_):
    import torch
    from sinkhorn_transformer import sinkhorn_transformer as peer

    cases = {}
    flat, unflat = lambda x: tensor(x).flatten(0, 1), lambda x: x.unflatten(0, (2, 2)).numpy()

    def add_sort(name, blocks, iterations, *, gumbel=False, causal=False):
        rng = generator("sinkhorn/" + name)
        weights = rng.random((2, 2, blocks, blocks))
        logits = np.log(weights + 1e-6)  # as the peer takes them
        call = {"function": "sinkhorn_sort", "inputs": ["logits"], "iterations": iterations}
        arrays = {"logits": logits}
        if gumbel:
            noise = arrays["noise"] = rng.gumbel(size=logits.shape)
            call |= {"temperature": 0.75, "arrays": ["noise"]}
            with mock.patch.object(peer, "sample_gumbel", lambda *_: flat(noise)):
                out = unflat(peer.gumbel_sinkhorn(flat(weights), iterations, 0.75))
            restated = np_balanced((logits + noise) / 0.75, iterations)
        elif causal:  # without its empty first row and last column, that is the peer's with hidden pairs
            call["causal"] = True
            corner = np.where(np.tri(blocks - 1, dtype=bool), logits[..., 1:, :-1], -np.inf)
            out, restated = np.zeros((2, *logits.shape))
            out[..., 1:, :-1] = unflat(peer.sinkhorn_sorting_operator(flat(corner), iterations))
            restated[..., 1:, :-1] = np_balanced(corner, iterations)
        else:
            out = unflat(peer.sinkhorn_sorting_operator(flat(logits), iterations))
            restated = np_balanced(logits, iterations)
        cases[name] = case("sinkhorn-transformer", arrays, out, restated, call)

    add_sort("sort", 6, 7)
    add_sort("sort_gumbel", 5, 8, gumbel=True)
    add_sort("sort_causal", 6, 4, causal=True)

    class Given(torch.nn.Module):
        """In place of the sorting network: a matrix that was drawn."""

        def __init__(self, sort):
            super().__init__()
            self.sort = flat(sort)

        def forward(self, q, k, topk):
            return self.sort

    def corrected():
        """The peer's class with the one line that takes sorted values from sorted keys put right."""
        source = inspect.getsource(peer.SinkhornAttention)
        right = source.replace("b_v_r = b_k_r.reshape(bh, buckets", "b_v_r = b_v_r.reshape(bh, buckets")
        if right == source:
            raise SystemExit("sinkhorn-transformer no longer has the line that this script puts right")
        names = dict(vars(peer))
        exec(right, names)
        return names["SinkhornAttention"]

    def attention(cls, q, k, v, sort, block, *, kv_block=None, cut=0, present=None):
        module = cls(block, 4, 4, 2, q.shape[2], non_permutative=False, n_sortcut=cut,
                     kv_bucket_size=kv_block).double().eval()
        module.sort_net = Given(sort)
        masks = {} if present is None else dict(q_mask=tensor(np.ones_like(present)), kv_mask=tensor(present))
        return module(*map(tensor, (q, k, v)), **masks).numpy()

    def add(name, n, block, *, released=False, masked=False, permutation=False):
        rng = generator("sinkhorn/" + name)
        q, k, v = heads_qkv(rng, n, n, d=4, e=4)
        blocks = n // block
        sort = np_balanced(rng.standard_normal((2, 2, blocks, blocks)), 5)
        if permutation:
            sort = np.eye(blocks)[rng.permuted(np.broadcast_to(np.arange(blocks), sort.shape[:3]), axis=-1)]
        call, present = {"sort": sort, "block": block}, None
        if masked:  # the peer mixes what a mask hides: zero here, as it is zeroed in this project
            present = rng.random((2, n)) < 0.7
            k, v = (np.where(present[:, None, :, None], x, 0.0) for x in (k, v))
            call["key_mask"] = present[:, None, :]
        faulty = attention(peer.SinkhornAttention, q, k, v, sort, block, present=present)
        fault = np_sinkhorn(q, k, v, sort, block, present=present, values_from=k)
        restated = np_sinkhorn(q, k, v, sort, block, present=present)
        assert np.abs(faulty - fault).max() < 1e-14 and np.abs(fault - restated).max() > 0.1
        if released:  # where values are keys, the fault does not show
            v = k
            out = attention(peer.SinkhornAttention, q, k, v, sort, block, present=present)
            restated = np_sinkhorn(q, k, v, sort, block, present=present)
        else:
            out = attention(corrected(), q, k, v, sort, block, present=present)
        cases[name] = qkv_case("sinkhorn-transformer", (q, k, v), out, restated, call)

    add("released_values_are_keys", 16, 4, released=True)
    add("corrected", 15, 5)
    add("corrected_permutation", 16, 4, permutation=True)
    add("corrected_key_mask", 16, 4, masked=True)

    def add_cut(name, n, block, keep):
        rng = generator("sinkhorn/" + name)
        q, k, v = heads_qkv(rng, n, n, d=4, e=4)
        sort = np_balanced(rng.standard_normal((2, 2, n // block, n // block)), 5)
        # with blocks of queries as large as those of keys it would see its own block too
        out = attention(peer.SinkhornAttention, q, k, v, sort, 2 * block, kv_block=block, cut=keep)
        restated = np_sinkhorn(q, k, v, sort, block, keep=keep)
        call = {"function": "sinkhorn_cut", "sort": sort, "block": block, "keep": keep}
        cases[name] = qkv_case("sinkhorn-transformer", (q, k, v), out, restated, call)

    add_cut("cut", 24, 4, 2)
    add_cut("cut_one", 12, 3, 1)

    def add_torch(name, n, block, *, causal=False, masked=False, keep=None):
        rng = generator("sinkhorn/" + name)
        q, k, v = heads_qkv(rng, n, n)
        blocks = -(-n // block)
        sort = rng.random((2, 2, blocks, blocks))
        call = {"sort": sort, "block": block}
        call |= {"causal": True} if causal else {}
        call |= {"function": "sinkhorn_cut", "keep": keep} if keep else {}
        present = np.ones((2, n), bool)
        if masked:
            present = rng.random((2, n)) < 0.6
            call["key_mask"] = present[:, None, :]
        weights = tensor(sort).tril(-1) if causal else tensor(sort)
        pad = torch.nn.functional.pad
        zeroed = [pad(tensor(np.where(present[:, None, :, None], x, 0.0)), (0, 0, 0, blocks * block - n))
                  for x in (k, v)]
        sorted_k, sorted_v = (
            torch.einsum("bhuw,bhwtd->bhutd", weights, x.unflatten(2, (blocks, block))).flatten(2, 3)
            for x in zeroed)
        largest = weights.argmax(-1)
        slots = pad(tensor(present), (0, blocks * block - n)).unflatten(1, (blocks, block))
        there = torch.stack([torch.stack([slots[b, largest[b, h]] for h in range(2)]) for b in range(2)])
        there = (there & (weights.amax(-1, keepdim=True) > 0)).flatten(2, 3)
        if keep:
            keys, values, there = (x[:, :, :keep * block] for x in (sorted_k, sorted_v, there))
            out, _ = torch_attention(q, keys, values, there[:, :, None, :].expand(-1, -1, n, -1))
        else:
            place = torch.arange(n) // block
            seen_sorted = (place[:, None] == torch.arange(blocks * block) // block) & there[:, :, None, :]
            seen_own = (place[:, None] == place) & tensor(present)[:, None, None, :]
            if causal:
                seen_own = seen_own.tril()
            keys, values = torch.cat([sorted_k, tensor(k)], 2), torch.cat([sorted_v, tensor(v)], 2)
            out, _ = torch_attention(q, keys, values,
                                     torch.cat([seen_sorted, seen_own.expand(2, 2, n, n)], -1))
        restated = np_sinkhorn(q, np.where(present[:, None, :, None], k, 0.0),
                               np.where(present[:, None, :, None], v, 0.0), sort, block, present=present,
                               causal=causal, keep=keep)
        cases[name] = qkv_case("torch", (q, k, v), out, restated, call)

    add_torch("ragged", 14, 4)
    add_torch("causal", 16, 4, causal=True)
    add_torch("causal_ragged_key_mask", 14, 4, causal=True, masked=True)
    add_torch("cut_ragged_key_mask", 14, 4, masked=True, keep=2)
    return cases
