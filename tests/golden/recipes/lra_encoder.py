"""The encoder of the Long Range Arena, put together of torch's embeddings, encoder layers and linears."""

import numpy as np
from frame import case, generator, np_attention, randomise, tensor
from recipes.transformer import encoder_weights, np_norm


def np_gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def np_encode(ids, weights, heads, pool):
    """A second statement of it all: batch, then padding of id 0."""
    x, seen = weights["tokens"][ids], ids != 0
    if pool == "cls":
        row = np.tile(weights["cls"], (len(ids), 1, 1))
        x, seen = np.concatenate([row, x], axis=1), np.pad(seen, ((0, 0), (1, 0)), constant_values=True)
    x = x + weights["positions"][: x.shape[1]]
    for layer in range(len(weights["wq"])):
        own = {name: y[layer] for name, y in weights.items() if len(name) == 2 and name[0] not in "hc"}
        y = np_norm(x, own["g1"], own["n1"])
        q, k, v = (np.stack(np.split(y @ own[f"w{c}"] + own[f"b{c}"], heads, axis=-1), axis=1) for c in "qkv")
        out, _ = np_attention(q, k, v, seen[:, None, None])
        x = x + np.concatenate(list(np.moveaxis(out, 1, 0)), axis=-1) @ own["wo"] + own["bo"]
        y = np_norm(x, own["g2"], own["n2"])
        x = x + np_gelu(y @ own["w1"] + own["b1"]) @ own["w2"] + own["b2"]
    x = np_norm(x, weights["g"], weights["n"])
    if pool == "masked_mean":
        return np.stack([row[ok].mean(axis=0) for row, ok in zip(x, seen, strict=True)])
    return x.mean(axis=1) if pool == "mean" else x[:, 0]


def np_perceptron(x, weights):
    for place in "123":
        if "h" + place in weights:
            x = (x if place == "1" else np.maximum(x, 0)) @ weights["h" + place] + weights["c" + place]
    return x


def cases(_):
    import torch
    from torch import nn

    cases, width, heads, number, n = {}, 8, 2, 2, 12
    for name, pool, sizes in (("classify_cls", "cls", (width, 6, 5)),
                              ("classify_mean", "mean", (width, 6, 5)),
                              ("classify_masked_mean", "masked_mean", (width, 6, 5)),
                              ("match_interaction", "cls", (4 * width, 6, 2)),
                              ("match_concatenated", "first", (2 * width, 6, 3, 2))):
        rng = generator("lra_encoder/" + name)
        layer = nn.TransformerEncoderLayer(width, heads, 10, dropout=0.0, batch_first=True, norm_first=True,
                                           activation=lambda x: nn.functional.gelu(x, approximate="tanh"))
        encoder = randomise(nn.TransformerEncoder(layer, number, nn.LayerNorm(width),
                                                  enable_nested_tensor=False), rng)
        tokens = randomise(nn.Embedding(17, width), rng)
        linears = [randomise(nn.Linear(*ends), rng) for ends in zip(sizes, sizes[1:], strict=False)]
        positions, first = rng.standard_normal((n + 1, width)), rng.standard_normal(width)
        blocks = [encoder_weights(block) for block in encoder.layers]
        weights = {key: np.stack([block[key] for block in blocks]) for key in blocks[0]}
        weights |= {"tokens": tokens.weight.numpy(), "positions": positions, "g": encoder.norm.weight.numpy(),
                    "n": encoder.norm.bias.numpy()} | ({"cls": first} if pool == "cls" else {})
        for place, linear in enumerate(linears, 1):
            weights |= {f"h{place}": linear.weight.numpy().T, f"c{place}": linear.bias.numpy()}

        def rows(ids, encoder=encoder, tokens=tokens, pool=pool, positions=positions, first=first):
            x, hidden = tokens(tensor(ids)), tensor(ids == 0)
            if pool == "cls":
                x = torch.cat([tensor(first).expand(len(ids), 1, -1), x], dim=1)
                hidden = nn.functional.pad(hidden, (1, 0), value=False)
            x = encoder(x + tensor(positions[: x.shape[1]]), src_key_padding_mask=hidden)
            if pool == "masked_mean":
                return x.masked_fill(hidden[..., None], 0).sum(1) / (~hidden).sum(1, keepdim=True)
            return x.mean(1) if pool == "mean" else x[:, 0]

        inputs = {}
        for key in ("ids1", "ids2") if name.startswith("match") else ("ids",):
            inputs[key] = rng.integers(1, 17, (3, n))
            inputs[key][1, 7:], inputs[key][2, 4:] = 0, 0
        call = {"function": "lra.encoder." + name.partition("_")[0], "inputs": list(inputs),
                "weights": sorted(weights), "heads": heads, "pool": pool}
        each = [rows(ids) for ids in inputs.values()]
        own = [np_encode(ids, weights, heads, pool) for ids in inputs.values()]
        if len(each) == 2:
            x, y = each
            u, w = own
            call["interaction"] = name == "match_interaction"
            if call["interaction"]:
                each, own = [x, y, x * y, x - y], [u, w, u * w, u - w]
        out = torch.cat(each, dim=-1)
        for place, linear in enumerate(linears):
            out = linear(torch.relu(out) if place else out)
        stored = {f"weights/{key}": value for key, value in weights.items()}
        cases[name] = case("torch", inputs | stored, out.numpy(),
                           np_perceptron(np.concatenate(own, axis=-1), weights), call)
    return cases
