"""The Long Range Arena's synthetic_attention; torch's attention with the logits as its mask, its layers."""

import numpy as np
from frame import (
    case,
    generator,
    lra_module,
    np_attention,
    randomise,
    swap_heads,
    table,
    tensor,
    torch_attention,
)

BATCH, HEADS, WIDTH = 2, 2, 5


def cases(peer_dir):
    import jax.numpy as jnp
    import torch
    from torch import nn

    cases = {}
    lra = lra_module(peer_dir, "synthesizer/synthesizer_attention.py")

    def nothing(length):
        return np.zeros((BATCH, HEADS, length, 1))

    def restate(v, logits, visible=True):
        n, m = logits.shape[-2:]
        return np_attention(nothing(n), nothing(m), v, visible, bias=logits)[0]

    def add(name, peer, v, logits, out, call, visible=True):
        call = {"inputs": ["v", "logits"]} | call
        arrays = {"v": v, "logits": logits} | {key: x for key, x in call.items() if isinstance(x, np.ndarray)}
        named = sorted(set(arrays) - {"v", "logits"})
        call = {key: x for key, x in call.items() if key not in named} | ({"arrays": named} if named else {})
        cases[name] = case(peer, arrays, out, restate(v, logits, visible), call)

    def lra_case(name, n, m, lead=(HEADS,), causal=False, mixture=False):
        """In a mixture the scaled scores of queries and keys join the logits."""
        normal = generator("synthesizer/" + name).standard_normal
        logits, v = normal((*lead, n, m)), normal((BATCH, HEADS, m, WIDTH))
        visible = table(n, m, lambda p, j: j <= p or not causal)
        each = jnp.asarray(np.broadcast_to(logits, (BATCH, HEADS, n, m)))
        # outside a mixture the peer looks at nothing but the number of their axes
        q, k = normal((BATCH, HEADS, n, 4)), normal((BATCH, HEADS, m, 4))
        query, key, value = (jnp.asarray(swap_heads(x)) for x in (q, k, v))
        out = lra.synthetic_attention(
            query, key, value, [each], dtype=jnp.float64, deterministic=True,
            bias=jnp.where(visible, 0.0, -1e10), ignore_dot_product=not mixture)
        if mixture:
            logits = q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5 + logits
        add(name, "long-range-arena", v, logits, swap_heads(out), {"causal": True} if causal else {}, visible)

    lra_case("lra_random", 13, 13)
    lra_case("lra_dense", 9, 14, lead=(BATCH, HEADS))
    lra_case("lra_causal", 13, 13, causal=True)
    lra_case("lra_mixture", 13, 13, mixture=True)

    def torch_case(name, n, m, *, causal=False, masked=False):
        rng = generator("synthesizer/" + name)
        v, logits = rng.standard_normal((BATCH, HEADS, m, WIDTH)), rng.standard_normal((BATCH, HEADS, n, m))
        key_mask = rng.random((BATCH, 1, m)) < (0.6 if masked else 2)
        seen = table(n, m, lambda p, j: j <= p or not causal) & key_mask[..., None, :]
        peer_mask = torch.ones(n, m, dtype=torch.bool).tril(m - n if causal else m)
        peer_mask = peer_mask & tensor(key_mask)[..., None, :]
        out, _ = torch_attention(nothing(n), nothing(m), v, peer_mask, bias=logits)
        add(name, "torch", v, logits, out, ({"causal": True} if causal else {})
            | ({"key_mask": key_mask} if masked else {}), seen)

    torch_case("key_mask", 13, 13, masked=True)
    torch_case("causal_more_keys", 9, 14, causal=True)
    torch_case("causal_more_queries_key_mask", 14, 9, causal=True, masked=True)

    rng = generator("synthesizer/dense_logits")
    first, second = randomise(nn.Linear(4, 6), rng), randomise(nn.Linear(6, 15), rng)
    x = rng.standard_normal((BATCH, 13, 4))
    weights = {"w1": first.weight.numpy().T, "b1": first.bias.numpy(),
               "w2": second.weight.numpy().T, "b2": second.bias.numpy()}
    out = second(torch.relu(first(tensor(x)))).numpy()
    restated = np.maximum(x @ weights["w1"] + weights["b1"], 0) @ weights["w2"] + weights["b2"]
    # made for 15 positions, used for 13
    cases["dense_logits"] = case("torch", {"x": x} | weights, out[..., :13], restated[..., :13],
                                 {"function": "dense_logits", "inputs": ["x", *weights]})
    return cases
