"""adaptive-span's SeqAttention; torch with the logarithm of the soft mask as a bias."""

import hashlib
import sys
import types
from unittest import mock

import numpy as np
from frame import generator, heads_qkv, np_attention, qkv_case, tensor, torch_attention

FILES = {  # SHA-256 of the files read from a checkout
    "adaptive_span": "94d8ab52f88b879272f7975dd079fabf932ca314bbdbbaf38730c85db68d5280",
    "models": "4b01248b5c32e369d6b83c79617834102eb8867bf7c28bc7c250f733be619eb5",
}


def seq_attention(peer_dir):
    """The peer's layer; what its file imports for other layers is left out."""
    others = {"persistent_memory": ["PersistentMemory"],
              "adaptive_io": ["build_adaptive_io", "compute_dummy_loss"]}
    modules = {name: types.ModuleType(name) for name in (*others, *FILES)}
    for name, parts in others.items():
        vars(modules[name]).update(dict.fromkeys(parts))
    with mock.patch.dict(sys.modules, modules):
        for name, digest in FILES.items():
            source = (peer_dir / "adaptive-span" / f"{name}.py").read_bytes()
            if hashlib.sha256(source).hexdigest() != digest:
                raise SystemExit(f"{name}.py is not the version that this script was written against")
            exec(compile(source, f"{name}.py", "exec"), vars(modules[name]))
    return modules["models"].SeqAttention


def np_adaptive_span(q, k, v, span, ramp, positions=None, *, key_mask=None, floor=None):
    """Query by query. With a `floor`, as released: softmax over all S keys, mask, divide by the sum + floor.

    Row x of `positions` belongs to distance x; there are as many as keys in the softmax, and row 0.
    """
    n, m = q.shape[-2], k.shape[-2]
    longest = m if positions is None else positions.shape[-2] - 1
    span = np.broadcast_to(span, q.shape[:-1])
    key_mask = np.broadcast_to(True if key_mask is None else key_mask, (*q.shape[:-2], m))
    out = np.zeros((*q.shape[:-1], v.shape[-1]))
    for place in np.ndindex(q.shape[:-2]):
        for i in range(n):
            p = i + m - n
            seen = [j for j in range(max(0, p - longest), p) if key_mask[place][j]]
            if not seen:
                continue
            query, distance = q[place][i:i + 1], p - np.array(seen)
            keys = k[place][seen] if positions is None else k[place][seen] + positions[distance]
            mask = np.clip((ramp + span[place][i] - distance) / ramp, 0, 1)
            # what the mask hides takes no part in the paper's sum, and some in the released one
            weights = mask * np_attention(query, keys, np.eye(len(seen)), floor is not None or mask > 0)[0][0]
            total = weights.sum() + (floor or 0)
            out[place][i] = weights @ v[place][seen] / total if total else 0
    return out


def cases(peer_dir):
    import torch

    cases = {}
    layer = seq_attention(peer_dir)

    def add_released(name, n, longest, spans, ramp, *, kept=None, loud=1.0):
        """A block of n queries behind a cache of `longest` keys; `loud` makes the oldest ones fit better.

        `kept`: how many of the keys are left when the peer has cut off those that no head sees, 64 at a time.
        """
        rng = generator("adaptive_span/" + name)
        q, k, v = heads_qkv(rng, n, n + longest)
        positions = rng.standard_normal((longest + 1, 4))
        k[..., :longest // 2, :] *= loud
        spans = np.array(spans)[:, None]
        module = layer(hidden_size=4, nb_heads=2, attn_span=longest, dropout=0.0, pers_mem_params={
            "pers_mem_size": 0}, adapt_span_params=dict(
                adapt_span_enabled=True, adapt_span_loss=0.0, adapt_span_ramp=ramp, adapt_span_init=0.0,
                adapt_span_cache=False)).double().requires_grad_(False)
        # its distances begin at 0, its spans are shares of the longest
        module.adaptive_span._mask.current_val.copy_(tensor((spans - 1) / longest)[..., None])
        # its columns run from the oldest to the newest
        columns = tensor(positions[:0:-1].T)[None]
        out = module(*(tensor(x).flatten(0, 1) for x in (q, k, v)), columns).unflatten(0, (2, 2)).numpy()
        call = {"span": spans, "ramp": ramp, "position_keys": positions}
        near = positions if kept is None else positions[:kept + 1]
        restated = np_adaptive_span(q, k, v, spans, ramp, near, floor=1e-8)
        paper = np_adaptive_span(q, k, v, spans, ramp, positions)
        cases[name] = qkv_case("adaptive-span", (q, k, v), out, restated, call, paper=paper)

    add_released("released", 9, 12, [3.0, 7.4], 4)
    add_released("released_ramp_beyond", 7, 10, [10.0, 8.0], 6)
    add_released("released_trimmed", 5, 80, [2.0, 9.5], 4, kept=16)
    # most of the first softmax falls on keys that the mask then hides
    add_released("released_crowded_out", 6, 10, [2.0, 3.0], 2, loud=6.0)

    def add_torch(name, n, m, span, ramp, longest=None, *, masked=False):
        rng = generator("adaptive_span/" + name)
        q, k, v = heads_qkv(rng, n, m)
        call = {"span": span, "ramp": ramp}
        distance = (torch.arange(n)[:, None] + m - n - torch.arange(m)).double()
        visible, own = distance >= 1, tensor(np.broadcast_to(span, (2, 2, n)))[..., None]
        bias = torch.clamp((own + ramp - distance) / ramp, 0, 1).log()
        if longest is not None:
            positions = call["position_keys"] = rng.standard_normal((longest + 1, 4))
            visible = visible & (distance <= longest)
            row = distance.clamp(0, longest).long().expand(2, 2, n, m)
            bias = bias + torch.gather(tensor(q) @ tensor(positions).mT, -1, row) / 2
        visible = visible.expand(2, 2, n, m)
        if masked:
            call["key_mask"] = rng.random((2, 1, m)) < 0.6
            visible = visible & tensor(call["key_mask"])[..., None, :]
        out, _ = torch_attention(q, k, v, visible & (bias > -torch.inf), bias=bias.numpy())
        restated = np_adaptive_span(q, k, v, span, ramp, call.get("position_keys"),
                                    key_mask=call.get("key_mask"))
        cases[name] = qkv_case("torch", (q, k, v), out, restated, call)

    per_token = generator("adaptive_span/spans").uniform(0, 7, (2, 2, 11))
    add_torch("number", 9, 14, 3.5, 2.5)
    add_torch("per_token", 11, 11, per_token, 3)
    add_torch("per_token_positions", 11, 15, per_token, 3, 6)
    add_torch("per_head_key_mask", 12, 12, np.array([[0.0], [5.5]]), 2, masked=True)
    return cases
