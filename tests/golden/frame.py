"""What the recipes share: generators, torch with explicit masks, records, and plain NumPy restatements.

Inputs come from seeded generators. Every case is compared with a NumPy restatement of what the peer is
supposed to compute, so that a wrong mapping of axes, weights or masks stops the script. The restatements
share no code with the packages under test, nor pattern masks with the peers. No draw of torch survives:
parameters and projections are overwritten, so only the generators seed anything.
"""

import ast
import hashlib
import importlib.metadata
import json
import sys
import types
from pathlib import Path
from unittest import mock

import numpy as np

PEERS = {  # the versions and licences that this script was written against
    "torch": ("2.13.0", "BSD-3-Clause"),
    "local-attention": ("1.11.2", "MIT"),
    "transformers": ("5.23.0", "Apache-2.0"),
    "linformer": ("0.2.3", "MIT"),
    "performer-pytorch": ("1.1.4", "MIT"),
    "pytorch-fast-transformers": ("0.4.0", "MIT"),
    "reformer-pytorch": ("1.4.4", "MIT"),
    "trax": ("git 7c189c2", "Apache-2.0"),
    "routing-transformer": ("1.6.1", "MIT"),
    "sinkhorn-transformer": ("0.11.4", "MIT"),
    "long-range-arena": ("git cd31e5c", "Apache-2.0"),
    "DeepSpeed": ("git 38327e0", "Apache-2.0"),
    "sparse_attention": ("git c53f3bd", "no licence stated"),
    "fastNLP": ("1.0.1", "Apache-2.0"),
    "NeuralNLP-NeuralClassifier": ("git 3d4ddff", "MIT"),
    "tensor2tensor": ("git bafdc1b", "Apache-2.0"),
    "conformer": ("0.3.2", "MIT"),
    "adaptive-span": ("git 27b815f", "CC-BY-NC-4.0"),
    "google-research": ("git 0c1bbe5", "Apache-2.0"),
    "axial-attention": ("0.6.1", "MIT"),
    "memory-compressed-attention": ("0.0.7", "MIT"),
    "set_transformer": ("git 73432c6", "MIT"),
    "torch-geometric": ("2.8.1", "MIT"),
    "transformer-xl": ("git 44781ed", "Apache-2.0"),
    "compressive-transformer-pytorch": ("0.4.0", "MIT"),
}
LRA_FILES = {  # SHA-256 of the files read from lra_benchmarks/models in a checkout
    "bigbird/bigbird_attention.py":
        "61bb21fa47031ec97fc88804b422e6aed16ee581a8af46738d1d29bf2e431efb",
    "linear_transformer/linear_attention.py":
        "d787fa32444a7789fcada35c955d5a608085d44e28500c51bdf37a59d9f9bf8d",
    "performer/performer_attention.py":
        "ea5c6b38014670e4bf38792255b8d392725ce816db46f61fc799686a0e752c3d",
    "sparse_transformer/sparse_attention.py":
        "d60ac834b14d110fc03ed548838c1374e1c583c22c2bab3c7bf597b728d89b66",
    "synthesizer/synthesizer_attention.py":
        "839bb0bc349155aba77e6e1e9f66a8926d9494cff53b971a95cc4bec12797c78",
}

DOUBLE = (5e-14, "float64 throughout: the rounding of both sides, values of order one")
SINGLE_SOFTMAX = (5e-7, "float64, but the peer's softmax is forced to float32")
SINGLE = (2e-6, "float32 throughout: the peer's kernel takes nothing else")


def generator(name):
    """A generator of its own for each case: a new case leaves the numbers of the others as they were."""
    return np.random.default_rng(list(name.encode()))


def heads_qkv(rng, n, m, *, d=4, e=5, lead=(2, 2), size=1.0):
    return tuple(size * rng.standard_normal((*lead, *own)) for own in ((n, d), (m, d), (m, e)))


def tensor(array):
    import torch

    return torch.from_numpy(np.array(array))


def peer_string(name):
    version, licence = PEERS[name]
    if not version.startswith("git "):
        installed = importlib.metadata.version(name).split("+")[0]
        if installed != version:
            raise SystemExit(f"{name} {installed} is installed; these files are made with {version}")
    return f"{name} {version} ({licence})"


def randomise(module, rng):
    """Fresh float64 parameters: torch starts biases at zero and gains at one, which would hide a swap."""
    import torch

    module = module.double().eval().requires_grad_(False)
    for parameter in module.parameters():
        values = rng.standard_normal(tuple(parameter.shape))
        parameter.copy_(tensor(values / np.sqrt(values.shape[-1]) if values.ndim > 1 else values))
    assert all(p.dtype == torch.float64 for p in module.parameters())
    return module


def case(peer, arrays, out, restated, call=None, *, tolerance=DOUBLE, paper=None, **extra):
    """One record, and how far the peer is from its restatement.

    `restated` imitates the peer; `paper`, given when that differs, is the same formula without the quirk.
    """
    call = dict(call or {})
    absolute, reason = tolerance
    out = np.asarray(out)
    rows = extra.get("rows", True)
    gap = float(np.max(np.abs(np.where(np.expand_dims(rows, -1), out - restated, 0.0))))
    if not gap <= absolute:
        raise AssertionError(f"the restatement misses {peer} by {gap:.1e}, more than {absolute:.0e}")
    record = {**arrays, **extra, "out": out}
    if paper is not None:
        moved = float(np.max(np.abs(restated - paper)))
        record |= {"restated": restated, "paper": paper, "moved": moved}
        absolute, reason = moved + absolute, f"the peer's epsilon moves the paper's form by {moved:.1e}"
    record |= {"call": json.dumps(call), "tolerance": absolute, "reason": reason, "peer": peer_string(peer)}
    return {key: np.asarray(value) for key, value in record.items()}, gap


def qkv_case(peer, qkv, out, restated, call=None, **options):
    """A record whose array-valued keyword arguments stand in `call` and are stored beside q, k and v."""
    call = dict(call or {})
    arrays = dict(zip("qkv", qkv, strict=True))
    named = {key: value for key, value in call.items() if isinstance(value, np.ndarray)}
    plain = {key: value for key, value in call.items() if key not in named}
    if named:
        plain["arrays"] = sorted(named)
    return case(peer, arrays | named, out, restated, plain, **options)


def np_attention(q, k, v, visible=True, *, bias=0.0, scale=None):
    """Masked softmax attention, row sums and all: the definition. -> (out, lse)"""
    scores = q @ k.swapaxes(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale) + bias
    scores = np.where(visible, scores, -np.inf)
    top = scores.max(-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    out = np.divide(weights @ v, total, out=np.zeros((*total.shape[:-1], v.shape[-1])), where=total > 0)
    with np.errstate(divide="ignore"):
        return out, (top + np.log(total))[..., 0]


def table(n, m, sees):
    """The boolean matrix of a predicate sees(position of the query, position of the key)."""
    return np.array([[bool(sees(i + m - n, j)) for j in range(m)] for i in range(n)])


def torch_attention(q, k, v, visible=None, *, bias=None, scale=None):
    """torch's attention with an explicit mask, and its log-sum-exp. -> (out, lse)"""
    import torch

    q, k, v = (tensor(x) for x in (q, k, v))
    k, v = (x.expand(*q.shape[:-2], *x.shape[-2:]) for x in (k, v))
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    mask = None if visible is None else torch.as_tensor(visible)
    if bias is not None:
        bias = tensor(bias)
        scores = scores + bias
        mask = bias if mask is None else bias.masked_fill(~mask, -torch.inf)
    if visible is not None:
        scores = scores.masked_fill(~torch.as_tensor(visible), -torch.inf)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return out.numpy(), torch.logsumexp(scores, -1).numpy()


def local_attention(q, k, v, *, window, before, after, causal=False, exact=False, key_mask=None):
    """Rotary positions are on by default, and without a mask the peer attends to the tail that it pads."""
    from local_attention import LocalAttention

    module = LocalAttention(
        window, causal=causal, look_backward=before, look_forward=after, exact_windowsize=exact,
        autopad=key_mask is not None, use_rotary_pos_emb=False,
    )
    return module(*map(tensor, (q, k, v)), mask=None if key_mask is None else tensor(key_mask)).numpy()


def np_kernel_attention(features_q, features_k, v, visible=True, *, floor=0.0):
    """Kernel attention from its full matrix of weights; `floor` is added to every denominator."""
    weights = np.where(visible, features_q @ features_k.swapaxes(-1, -2), 0.0)
    return weights @ v / (weights.sum(-1, keepdims=True) + floor)


def lra_module(peer_dir, path):
    """Run one file of the Long Range Arena without its flax, gin and absl, which take no part in the sums."""
    import jax

    jax.config.update("jax_enable_x64", True)
    source = (peer_dir / "long-range-arena" / "lra_benchmarks" / "models" / path).read_bytes()
    if hashlib.sha256(source).hexdigest() != LRA_FILES[path]:
        raise SystemExit(f"{path} is not the version that this script was written against")
    gin, absl = types.ModuleType("gin"), types.ModuleType("absl")
    gin.external_configurable = lambda function, name: function
    gin.configurable = lambda function: function
    absl.logging = types.SimpleNamespace(info=lambda *_: None)
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not names_flax(node)]
    module = types.ModuleType(Path(path).stem)
    module.nn = types.SimpleNamespace(elu=jax.nn.elu)
    with mock.patch.dict(sys.modules, {"gin": gin, "absl": absl}):
        exec(compile(tree, path, "exec"), module.__dict__)
    return module


def names_flax(node):
    """The import of flax and the layers built on it."""
    text = ast.unparse(node)
    return "flax" in text or "nn.Module" in text or ".partial(inputs_kv=None)" in text


def swap_heads(x):
    """(B, H, n, d) <-> (B, n, H, d): the Long Range Arena and fast-transformers put the length first."""
    return np.asarray(x).swapaxes(1, 2)
