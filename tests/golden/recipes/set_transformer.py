"""The authors' modules.py, and torch-geometric's blocks of the same names."""

import hashlib
import types

import numpy as np
from frame import case, generator, np_attention, randomise, tensor

SHA256 = "26c11c9f18209cd2ddcf52073a28b0052b356673ab356a1a5bf8ec41e9c95787"  # of modules.py in a checkout
WIDTH, HEADS = 8, 2


def np_mab(x, y, weights, seen=True, scale=None):
    def norm(rows, place):
        centred = rows - rows.mean(-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return centred / spread * weights[f"g{place}"] + weights[f"n{place}"]

    split = lambda rows: np.stack(np.split(rows, HEADS, axis=-1), axis=-3)
    q = split(x @ weights["wq"] + weights["bq"])
    k, v = (split(y @ weights["w" + c] + weights["b" + c]) for c in "kv")
    heads, _ = np_attention(q, k, v, seen, scale=scale)
    joined = np.concatenate(np.moveaxis(heads, -3, 0), axis=-1)
    h = norm(x + joined @ weights["wo"] + weights["bo"], 1)
    return norm(h + np.maximum(h @ weights["wf"] + weights["bf"], 0), 2)


def linear(module, name):
    """torch keeps the matrix for `w @ x`."""
    return {"w" + name: module.weight.numpy().T, "b" + name: module.bias.numpy()}


def norms(first, second):
    return {"g1": first.weight.numpy(), "n1": first.bias.numpy(),
            "g2": second.weight.numpy(), "n2": second.bias.numpy()}


def authors_modules(peer_dir):
    source = (peer_dir / "set_transformer" / "modules.py").read_bytes()
    if hashlib.sha256(source).hexdigest() != SHA256:
        raise SystemExit("set_transformer/modules.py is not the version that this recipe was written against")
    module = types.ModuleType("modules")
    exec(compile(source, "modules.py", "exec"), module.__dict__)
    return module


def authors_weights(module):
    """The peer adds the projected query and has no layer behind the heads: both are the identity here."""
    module.fc_q.weight.copy_(tensor(np.eye(WIDTH)))
    module.fc_q.bias.zero_()
    weights = {"wo": np.eye(WIDTH), "bo": np.zeros(WIDTH)} | norms(module.ln0, module.ln1)
    for layer, name in ((module.fc_q, "q"), (module.fc_k, "k"), (module.fc_v, "v"), (module.fc_o, "f")):
        weights |= linear(layer, name)
    return weights


def geometric_weights(module):
    weights = linear(module.attn.out_proj, "o") | linear(module.lin, "f")
    weights |= norms(module.layer_norm1, module.layer_norm2)
    packed = zip("qkv", module.attn.in_proj_weight.chunk(3), module.attn.in_proj_bias.chunk(3), strict=True)
    for c, w, b in packed:
        weights |= {"w" + c: w.numpy().T, "b" + c: b.numpy()}
    return weights


def cases(peer_dir):
    from torch_geometric.nn.aggr import utils

    cases = {}
    authors = authors_modules(peer_dir)

    def add(name, peer, function, inputs, weights, out, restated, call=None, **extra):
        call = {"function": function, "inputs": list(inputs), "weights": list(weights), "heads": HEADS} | (
            call or {})
        stored = {f"weights/{key}": value for key, value in weights.items()}
        cases[name] = case(peer, inputs | stored, out.numpy(), restated, call, **extra)

    def both(inner, outer):
        return {f"in/{key}": x for key, x in inner.items()} | {f"out/{key}": x for key, x in outer.items()}

    def draw(name, *shapes):
        rng = generator("set_transformer/" + name)
        return rng, *(rng.standard_normal((*shape, WIDTH)) for shape in shapes)

    # the authors divide by the root of the full width
    scale = WIDTH**-0.5
    wide = {"attend": {"scale": scale}}

    rng, x, y = draw("authors_mab", (2, 7), (2, 9))
    module = randomise(authors.MAB(WIDTH, WIDTH, WIDTH, HEADS, ln=True), rng)
    weights = authors_weights(module)
    add("authors_mab", "set_transformer", "mab", {"x": x, "y": y}, weights, module(tensor(x), tensor(y)),
        np_mab(x, y, weights, scale=scale), wide)

    rng, x = draw("authors_sab", (2, 9))
    module = randomise(authors.SAB(WIDTH, WIDTH, HEADS, ln=True), rng)
    weights = authors_weights(module.mab)
    add("authors_sab", "set_transformer", "sab", {"x": x}, weights, module(tensor(x)),
        np_mab(x, x, weights, scale=scale), wide)

    rng, x = draw("authors_isab", (2, 9))
    module = randomise(authors.ISAB(WIDTH, WIDTH, HEADS, 3, ln=True), rng)
    points, inner, outer = module.I[0].numpy(), authors_weights(module.mab0), authors_weights(module.mab1)
    each = np.broadcast_to(points, (2, 3, WIDTH))
    add("authors_isab", "set_transformer", "isab", {"x": x, "inducing": points}, both(inner, outer),
        module(tensor(x)), np_mab(x, np_mab(each, x, inner, scale=scale), outer, scale=scale), wide)

    # its PMA has no layer of its own: the identity does nothing to positive numbers
    rng, x = draw("authors_pma", (2, 9))
    x = np.abs(x)
    module = randomise(authors.PMA(WIDTH, HEADS, 3, ln=True), rng)
    seeds, weights = module.S[0].numpy(), authors_weights(module.mab)
    weights |= {"wz": np.eye(WIDTH), "bz": np.zeros(WIDTH)}
    add("authors_pma", "set_transformer", "pma", {"x": x, "seeds": seeds}, weights, module(tensor(x)),
        np_mab(np.broadcast_to(seeds, (2, 3, WIDTH)), x, weights, scale=scale), wide)

    def masks(rng):
        """A mask of the set, and the restatement's form of it."""
        key_mask = rng.random((2, 9)) < 0.6
        return {"arrays": ["key_mask"]}, {"key_mask": key_mask}, tensor(key_mask), key_mask[:, None, None, :]

    for name in ("mab", "mab_key_mask"):
        rng, x, y = draw(name, (2, 7), (2, 9))
        module = randomise(utils.MultiheadAttentionBlock(WIDTH, HEADS), rng)
        weights = geometric_weights(module)
        call, extra, mask, seen = masks(rng) if "mask" in name else ({}, {}, None, True)
        add(name, "torch-geometric", "mab", {"x": x, "y": y}, weights,
            module(tensor(x), tensor(y), y_mask=mask), np_mab(x, y, weights, seen), call, **extra)

    # with a mask the peer leaves the attention out of the rows of masked elements: `rows` omits them
    rng, x = draw("sab_key_mask", (2, 9))
    module = randomise(utils.SetAttentionBlock(WIDTH, HEADS), rng)
    weights = geometric_weights(module.mab)
    call, extra, mask, seen = masks(rng)
    add("sab_key_mask", "torch-geometric", "sab", {"x": x}, weights, module(tensor(x), mask),
        np_mab(x, x, weights, seen), call, rows=extra["key_mask"], **extra)

    rng, x = draw("isab_key_mask", (2, 9))
    module = randomise(utils.InducedSetAttentionBlock(WIDTH, 3, HEADS), rng)
    points, (inner, outer) = module.ind[0].numpy(), map(geometric_weights, (module.mab1, module.mab2))
    call, extra, mask, seen = masks(rng)
    h = np_mab(np.broadcast_to(points, (2, 3, WIDTH)), x, inner, seen)
    add("isab_key_mask", "torch-geometric", "isab", {"x": x, "inducing": points}, both(inner, outer),
        module(tensor(x), mask), np_mab(x, h, outer), call, rows=extra["key_mask"], **extra)

    for name in ("pma", "pma_key_mask"):
        rng, x = draw(name, (2, 9))
        module = randomise(utils.PoolingByMultiheadAttention(WIDTH, 3, HEADS), rng)
        seeds, weights = module.seed[0].numpy(), geometric_weights(module.mab) | linear(module.lin, "z")
        call, extra, mask, seen = masks(rng) if "mask" in name else ({}, {}, None, True)
        features = np.maximum(x @ weights["wz"] + weights["bz"], 0)
        add(name, "torch-geometric", "pma", {"x": x, "seeds": seeds}, weights, module(tensor(x), mask),
            np_mab(np.broadcast_to(seeds, (2, 3, WIDTH)), features, weights, seen), call, **extra)
    return cases
