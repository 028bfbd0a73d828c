"""Attention as it is written in torch itself: its own function, with masks, by chunks, and compiled."""

from functools import partial

import contest  # before NumPy and torch: it tells BLAS and OpenMP how many threads they have
from contest import MISSING, OPTIONS, SIDE, Array, Contender, versioned

torch = contest.load_torch()
NAME = torch and versioned("torch")
sdpa = torch and torch.nn.functional.scaled_dot_product_attention


def tensors(*arrays: Array) -> list:
    return [torch.from_numpy(x) for x in arrays]


def torch_sdpa(q: Array, k: Array, v: Array, causal: bool = False) -> list[Contender]:
    if not torch:
        return []
    batch = [x[None] for x in tensors(q, k, v)]
    return [Contender(f"{NAME} SDPA", lambda: sdpa(*batch, is_causal=causal), lambda out: out[0].numpy())]


def torch_masked(q: Array, k: Array, v: Array, sees) -> list[Contender]:
    """SDPA with the boolean matrix of sees(position of the query, position of the key)."""
    i, j = torch.arange(q.shape[1])[:, None], torch.arange(k.shape[1])
    batch, mask = [x[None] for x in tensors(q, k, v)], sees(i, j).expand(len(i), len(j)).contiguous()
    return [Contender(f"{NAME} SDPA, mask", lambda: sdpa(*batch, attn_mask=mask), lambda out: out[0].numpy())]


def torch_flex(q: Array, k: Array, v: Array, sees) -> list[Contender]:
    """flex_attention compiled for sees(position of the query, position of the key)."""
    if OPTIONS.quick or not torch:
        return []
    try:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention
        torch.compiler.reset()  # or the ninth pattern would be one too many for what it keeps
        mask = create_block_mask(lambda b, h, i, j: sees(i, j), None, None, q.shape[1], k.shape[1],
                                 device="cpu")
        call = partial(torch.compile(flex_attention), *(x[None] for x in tensors(q, k, v)), block_mask=mask)
        call()
        return [Contender(f"{NAME} flex, compiled", call, lambda out: out[0].numpy())]
    except Exception as error:  # whatever its compiler meets on this machine
        MISSING["torch flex_attention"] = f"did not compile: {str(error).splitlines()[0]}"
        return []


def torch_window(q: Array, k: Array, v: Array) -> list[Contender]:
    """SDPA on chunks of SIDE queries with the three chunks of keys around them; flex_attention, compiled."""
    if not torch:
        return []
    heads, n, d = q.shape
    flex = torch_flex(q, k, v, lambda i, j: (i - j).abs() <= SIDE)
    q, k, v = tensors(q, k, v)
    places = torch.arange(n).view(-1, SIDE, 1)
    near = torch.arange(3 * SIDE) + SIDE * (torch.arange(n // SIDE).view(-1, 1, 1) - 1)
    seen = ((near - places).abs() <= SIDE) & (near >= 0) & (near < n)

    def around(x):
        x = torch.nn.functional.pad(x, (0, 0, SIDE, SIDE)).view(heads, -1, SIDE, d)
        return torch.cat([x[:, :-2], x[:, 1:-1], x[:, 2:]], dim=2)

    def chunks():
        return sdpa(q.view(heads, -1, SIDE, d), around(k), around(v), attn_mask=seen).view(heads, n, d)

    return [Contender(f"{NAME} SDPA, chunks", chunks, lambda out: out.numpy()), *flex]


def torch_linear(q: Array, k: Array, v: Array, causal: bool = True) -> list[Contender]:
    """Causal: sums of whole chunks by cumsum, and the triangle within each chunk."""
    if not torch:
        return []
    q, k, v = tensors(q, k, v)
    elu = torch.nn.functional.elu

    def whole(q, k, v):
        q, k = elu(q) + 1, elu(k) + 1
        return q @ (k.mT @ v) / (q @ k.sum(1)[..., None])

    def by_chunks(size, q, k, v):
        q, k, v = (x.unflatten(1, (-1, size)) for x in (q, k, v))
        q, k = elu(q) + 1, elu(k) + 1
        own, own_keys = k.mT @ v, k.sum(2)
        before, keys_before = own.cumsum(1) - own, own_keys.cumsum(1) - own_keys
        weights = (q @ k.mT).tril()
        total = weights.sum(-1, keepdim=True) + q @ keys_before[..., None]
        return ((weights @ v + q @ before) / total).flatten(1, 2)

    forms = {f"{NAME}, chunks of {size}": partial(by_chunks, size) for size in (64, 128)}
    if not causal:
        forms = {NAME: whole}
    if not OPTIONS.quick:
        name, form = next(iter(forms.items()))
        try:
            compiled = torch.compile(form)
            compiled(q, k, v)
            forms[f"{name}, compiled"] = compiled
        except Exception as error:
            MISSING["torch.compile of linear attention"] = str(error).splitlines()[0]
    return [Contender(name, partial(form, q, k, v), lambda out: out.numpy()) for name, form in forms.items()]
