"""tensor2tensor's local attention in one and two dimensions; local-attention; torch with explicit masks."""

import ast
import functools
import hashlib
import itertools
import operator
import os
import types

import numpy as np
from frame import (
    generator,
    heads_qkv,
    local_attention,
    np_attention,
    qkv_case,
    table,
    torch_attention,
)

FILES = {  # SHA-256 of the files read from tensor2tensor/layers in a checkout, and what is taken from them
    "common_attention.py": ("527edba7d51cb6599cb7497f3ca594423834b7d269e737988ace45337bd5b7dd", """
        attention_bias_local attention_bias_lower_triangle break_into_blocks_nd break_into_memory_blocks_nd
        causal_attention_bias_nd dot_product_attention embedding_to_padding flatten_blocks_nd gather_blocks_2d
        gather_indices_2d get_memory_region local_attention_1d local_attention_2d _make_local_block
        masked_local_attention_1d masked_local_attention_2d masked_local_attention_nd
        pad_to_multiple_2d pad_to_multiple_nd put_back_blocks_nd reshape_by_blocks reshape_range
        scatter_blocks_2d unflatten_blocks_nd"""),
    "common_layers.py": ("120e25dc6481b3b027d45191a3f69b69b4f6f59abecf692989c5fa1e7f099638",
                         "cast_like ones_matrix_band_part shape_list"),
}


def tensor2tensor(peer_dir):
    """run(name, arrays, **options) of the functions above; names, summaries and dropout are left out."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow.compat.v1 as tf

    tf.logging.set_verbosity(tf.logging.ERROR)
    layers = types.SimpleNamespace(should_generate_summaries=lambda: False,
                                   dropout_with_broadcast_dims=lambda x, keep, broadcast_dims: x)
    scopes = types.SimpleNamespace(add_name_scope=lambda: lambda function: function)
    space = dict(tf=tf, np=np, functools=functools, itertools=itertools, operator=operator,
                 common_layers=layers, expert_utils=scopes, maybe_upcast=lambda x, *_: x)
    for name, (digest, wanted) in FILES.items():
        source = (peer_dir / "tensor2tensor" / "tensor2tensor" / "layers" / name).read_bytes()
        if hashlib.sha256(source).hexdigest() != digest:
            raise SystemExit(f"{name} is not the version that this script was written against")
        tree = ast.parse(source)
        tree.body = [node for node in tree.body if getattr(node, "name", None) in wanted.split()]
        exec(compile(tree, name, "exec"), space)
    vars(layers).update((name, space[name]) for name in FILES["common_layers.py"][1].split())
    return lambda name, arrays, **options: space[name](*map(tf.constant, arrays), **options).numpy()


def inputs(name, n, **widths):
    return heads_qkv(generator("image/" + name), n, n, lead=(2, 1), **widths)


def in_line(n, block, before, after, causal):
    """The block of the query grown by so many positions before and after it."""
    start = lambda p: p - p % block
    near = lambda p, j: start(p) - before <= j < start(p) + block + after
    return table(n, n, lambda p, j: near(p, j) and (j <= p or not causal))


def in_plane(shape, block, flange, causal):
    """Rows above with the flange at both sides, what is left of the block, its own pixels in raster order."""
    (b, c), (f, g), n = block, flange, shape[0] * shape[1]

    def sees(p, j):
        pixel, other = divmod(p, shape[1]), divmod(j, shape[1])
        # counted from the corner of the block
        row, column = other[0] - pixel[0] // b * b, other[1] - pixel[1] // c * c
        if not causal:
            return -f <= row < b + f and -g <= column < c + g
        if row < 0:
            return -f <= row and -g <= column < c + g
        if column < 0:
            return row < b and -g <= column
        return row < b and column < c and other <= pixel

    return table(n, n, sees)


def faults(t2t):
    """Two results that are not the paper's: asserted here, left out of the file (README.md)."""
    qkv = inputs("fault_1d", 16)
    out = t2t("local_attention_1d", qkv, block_length=4, filter_width=4)
    # where the width is a multiple of the block, the window sits one block too far left
    shifted = table(16, 16, lambda p, j: p - p % 4 - 8 <= j < p - p % 4 + 4)
    assert np.abs(out - np_attention(*qkv, shifted, scale=1.0)[0])[..., 4:, :].max() < 1e-12
    # where blocks do not divide the image, the block's own padding is attended to: zero keys and values
    qkv = inputs("fault_2d", 15, e=4)
    images = [x.reshape(2, 1, 3, 5, 4) for x in qkv]
    out = t2t("masked_local_attention_2d", images, query_shape=(2, 3), memory_flange=(0, 0))
    padded = [np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0))).reshape(2, 1, 24, 4) for x in images]
    leak = np_attention(*padded, in_plane((4, 6), (2, 3), (0, 0), True), scale=1.0)[0]
    assert np.abs(out - leak.reshape(2, 1, 4, 6, 4)[:, :, :3, :5]).max() < 1e-12


def cases(peer_dir):
    t2t, cases = tensor2tensor(peer_dir), {}
    faults(t2t)

    def add(name, function, peer, qkv, out, sees, call):
        scale = {"scale": 1.0} if peer == "tensor2tensor" else {}
        cases[name] = qkv_case(peer, qkv, out, np_attention(*qkv, sees, **scale)[0],
                               {"function": function} | call | scale)

    def add_line(name, n, block, memory, causal=True):
        """tensor2tensor's memory of a causal block is the block before it."""
        qkv = inputs(name, n)
        if causal:
            out = t2t("masked_local_attention_1d", qkv, block_length=block)
        else:
            out = t2t("local_attention_1d", qkv, block_length=block, filter_width=memory)
        sees = in_line(n, block, memory, 0 if causal else memory, causal)
        add(name, "image_1d", "tensor2tensor", qkv, out, sees,
            {"block": block, "memory": memory, "causal": causal})

    add_line("line", 16, 4, 4)
    add_line("line_ragged", 18, 4, 4)
    add_line("line_both_sides", 16, 4, 3, causal=False)
    add_line("line_both_sides_far", 18, 4, 6, causal=False)

    def add_plane(name, peer_function, shape, block, flange, causal=True, e=4):
        n = shape[0] * shape[1]
        qkv = inputs(name, n, e=e)
        images = [x.reshape(*x.shape[:2], *shape, -1) for x in qkv]
        out = t2t(peer_function, images, query_shape=block, memory_flange=flange)
        add(name, "image_2d", "tensor2tensor", qkv, out.reshape(2, 1, n, e),
            in_plane(shape, block, flange, causal),
            {"shape": shape, "block": block, "flange": flange, "causal": causal})

    add_plane("plane", "masked_local_attention_2d", (4, 8), (2, 4), (2, 4))
    add_plane("plane_narrow_flange", "masked_local_attention_2d", (6, 4), (3, 2), (2, 1))
    add_plane("plane_above_alone", "masked_local_attention_2d", (4, 6), (2, 3), (1, 0))
    add_plane("plane_ragged", "masked_local_attention_nd", (5, 7), (2, 3), (2, 3), e=5)
    add_plane("plane_far", "masked_local_attention_nd", (6, 5), (2, 1), (4, 2), e=5)
    add_plane("plane_all_sides", "local_attention_2d", (4, 8), (2, 4), (2, 2), causal=False)
    add_plane("plane_all_sides_ragged", "local_attention_2d", (5, 7), (3, 2), (1, 1), causal=False)

    def add_local(name, n, block, hops, key_mask=None):
        qkv = inputs(name, n)
        out = local_attention(*qkv, window=block, before=hops, after=0, causal=True, key_mask=key_mask)
        add(name, "image_1d", "local-attention", qkv, out, in_line(n, block, block * hops, 0, True),
            {"block": block, "memory": block * hops})

    add_local("line_default_scale", 16, 4, 1)
    add_local("line_two_blocks_back", 17, 3, 2, key_mask=np.ones((2, 17), bool))

    def add_torch(name, function, sees, call, key_mask=None):
        qkv = inputs(name, len(sees))
        if key_mask is not None:
            call["key_mask"], sees = key_mask[:, None, :], sees & key_mask[:, None, None, :]
        add(name, function, "torch", qkv, torch_attention(*qkv, sees)[0], sees, call)

    some = generator("image/mask").random((2, 15)) < 0.6
    add_torch("line_masked", "image_1d", in_line(15, 4, 5, 0, True), {"block": 4, "memory": 5}, some)
    add_torch("line_both_sides_whole_blocks", "image_1d", in_line(14, 4, 4, 4, False),
              {"block": 4, "memory": 4, "causal": False})
    for name, causal in (("plane_uneven", True), ("plane_uneven_all_sides", False)):
        call = {"shape": (3, 5), "block": (2, 2), "flange": (1, 3), "causal": causal}
        add_torch(name, "image_2d", in_plane(**call), call, some)
    return cases
