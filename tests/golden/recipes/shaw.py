"""tensor2tensor's relative attention; conformer; transformers' Wav2Vec2Bert; torch with a bias."""

import ast
import hashlib
import os

import numpy as np
from frame import generator, heads_qkv, np_attention, qkv_case, randomise, tensor, torch_attention

FILE = "tensor2tensor/layers/common_attention.py"
DIGEST = "527edba7d51cb6599cb7497f3ca594423834b7d269e737988ace45337bd5b7dd"
WANTED = ("_generate_relative_positions_matrix", "_relative_attention_inner")


def tensor2tensor(peer_dir):
    """The two functions that hold the equations; the third around them makes variables and summaries."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow.compat.v1 as tf

    source = (peer_dir / "tensor2tensor" / FILE).read_bytes()
    if hashlib.sha256(source).hexdigest() != DIGEST:
        raise SystemExit(f"{FILE} is not the version that this script was written against")
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if getattr(node, "name", None) in WANTED]
    space = {"tf": tf}
    exec(compile(tree, FILE, "exec"), space)
    return tf, *(space[name] for name in WANTED)


def np_shaw(q, k, v, keys, values=None, *, visible=True):
    """Query by query, from keys and values that have their vectors added."""
    n, m = q.shape[-2], k.shape[-2]
    visible = np.broadcast_to(visible, (*q.shape[:-1], m))
    out = np.zeros((*q.shape[:-1], v.shape[-1]))
    for place in np.ndindex(q.shape[:-2]):
        key_rows = np.broadcast_to(keys, (*q.shape[:-2], *keys.shape[-2:]))[place]
        clip = len(key_rows) // 2
        for i in range(n):
            row = [min(max(j - (i + m - n), -clip), clip) + clip for j in range(m)]
            value = v[place] if values is None else v[place] + values[row]
            out[place][i] = np_attention(q[place][i:i + 1], k[place] + key_rows[row], value,
                                         visible[place][i:i + 1])[0][0]
    return out


def cases(peer_dir):
    import torch
    from conformer.conformer import Attention
    from transformers import Wav2Vec2BertConfig
    from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertSelfAttention

    cases = {}
    tf, positions, inner = tensor2tensor(peer_dir)

    def draw(name, n, m, clip, lead=()):
        rng = generator("shaw/" + name)
        keys, values = (rng.standard_normal((*own, 2 * clip + 1, w)) for own, w in ((lead, 4), ((), 5)))
        return heads_qkv(rng, n, m), keys, values, rng

    def past(n, m):
        return np.arange(m) <= np.arange(n)[:, None] + m - n

    def add_t2t(name, n, m, clip, causal=False):
        (q, k, v), keys, values, _ = draw(name, n, m, clip)
        rows = positions(n, m, clip)
        # its queries come scaled; its mask is a bias of -1e9, of which float64 leaves nothing
        logits = inner(tf.constant(q / 2), tf.constant(k), tf.gather(keys, rows), True)
        if causal:
            logits += np.where(past(n, m), 0, -1e9)
        out = inner(tf.nn.softmax(logits), tf.constant(v), tf.gather(values, rows), False).numpy()
        restated = np_shaw(q, k, v, keys, values, visible=past(n, m) if causal else True)
        call = {"key_table": keys, "value_table": values, "causal": causal}
        cases[name] = qkv_case("tensor2tensor", (q, k, v), out, restated, call)

    add_t2t("t2t", 13, 13, 3)
    add_t2t("t2t_memory", 8, 13, 3)
    add_t2t("t2t_causal", 13, 13, 4, causal=True)
    add_t2t("t2t_wide", 9, 9, 20)

    def per_head(x):
        return x.detach().unflatten(-1, (2, 4)).transpose(1, 2).contiguous().numpy()

    def identity(layer):
        layer.weight.copy_(torch.eye(8))
        layer.bias.zero_()

    def add_conformer(name, n, clip):
        rng = generator("shaw/" + name)
        layer = randomise(Attention(8, heads=2, dim_head=4, max_pos_emb=clip), rng)
        identity(layer.to_out)
        x = tensor(rng.standard_normal((2, n, 8)))
        qkv = [per_head(y) for y in (layer.to_q(x), *layer.to_kv(x).chunk(2, -1))]
        # it counts i - j: the rows of its table are in the opposite order
        keys = layer.rel_pos_emb.weight.numpy()[::-1].copy()
        restated = np_shaw(*qkv, keys)
        cases[name] = qkv_case("conformer", qkv, per_head(layer(x)), restated, {"key_table": keys})

    add_conformer("conformer", 13, 3)

    def add_hf(name, n, left, right):
        rng = generator("shaw/" + name)
        config = Wav2Vec2BertConfig(
            hidden_size=8, num_attention_heads=2, attention_dropout=0.0, left_max_position_embeddings=left,
            right_max_position_embeddings=right, position_embeddings_type="relative_key",
        )
        config._attn_implementation = "eager"
        layer = randomise(Wav2Vec2BertSelfAttention(config), rng)
        identity(layer.linear_out)
        x = tensor(rng.standard_normal((2, n, 8)))
        qkv = [per_head(getattr(layer, "linear_" + c)(x)) for c in "qkv"]
        # it clips the two sides apart: beyond the shorter one the last row is repeated
        clip = max(left, right)
        row = np.clip(np.arange(-clip, clip + 1), -left, right) + left
        keys = layer.distance_embedding.weight.numpy()[row]
        restated = np_shaw(*qkv, keys)
        cases[name] = qkv_case("transformers", qkv, per_head(layer(x)[0]), restated, {"key_table": keys})

    add_hf("hf", 13, 4, 4)
    add_hf("hf_uneven", 13, 5, 2)

    def add_torch(name, n, m, clip, *, causal=False, masked=False, lead=(), values=True):
        """The key term as a float bias, the value term from the same softmax of torch."""
        (q, k, v), keys, table, rng = draw(name, n, m, clip, lead)
        call = {"key_table": keys, "causal": causal} | ({"value_table": table} if values else {})
        visible = np.broadcast_to(past(n, m) if causal else True, (2, 2, n, m)).copy()
        if masked:
            call["key_mask"] = rng.random((2, 1, m)) < 0.6
            visible = visible & call["key_mask"][..., None, :]
        offset = torch.arange(m) - torch.arange(n)[:, None] - (m - n)
        row = offset.clamp(-clip, clip) + clip
        bias = torch.gather(tensor(q) @ tensor(keys).mT, -1, row.expand(2, 2, n, m)).numpy() / 2
        out, _ = torch_attention(q, k, v, visible, bias=bias)
        if values:
            every = torch.nn.functional.one_hot(row, 2 * clip + 1).double()  # (n,m,2c+1)
            eye = np.broadcast_to(np.eye(m), (2, 2, m, m))
            weights = tensor(torch_attention(q, k, eye, visible, bias=bias)[0])
            out = out + (torch.einsum("bhij,ijt->bhit", weights, every) @ tensor(table)).numpy()
        restated = np_shaw(q, k, v, keys, table if values else None, visible=visible)
        cases[name] = qkv_case("torch", (q, k, v), out, restated, call)

    add_torch("keys_alone", 10, 14, 2, values=False)
    add_torch("more_queries_causal", 14, 10, 2, causal=True)
    add_torch("per_head_key_mask", 12, 12, 3, masked=True, lead=(2,))
    add_torch("clipped_at_0", 7, 9, 0)
    return cases
