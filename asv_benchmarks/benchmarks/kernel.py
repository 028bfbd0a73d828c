"""Kernel attention: running sums of features, whole and step by step."""

from . import measure
from .measure import WIDTH, Variant, normal

FEATURES = 256
SINGLE_STEPS = 16


def _features(n):
    return dict(projection=normal(FEATURES, WIDTH))


def _feature_count(n):
    return dict(f=FEATURES)


def _prompt_then_steps(package, name, arguments, options):
    """All tokens but the last few at once, then these one by one, as a model that writes would call it."""
    step, cut = getattr(package, name), arguments[0].shape[-2] - SINGLE_STEPS
    state, out = step(None, *(x[..., :cut, :] for x in arguments), **options)
    outs = [out]
    for t in range(cut, cut + SINGLE_STEPS):
        state, out = step(state, *(x[..., t:t + 1, :] for x in arguments), **options)
        outs.append(out)
    return tuple(outs)


def _prompt(package, name, arguments, options):
    state, out = getattr(package, name)(None, *arguments, **options)
    return *state, out


VARIANTS = {
    "linear_transformer": Variant("linear_transformer"),
    "linear_transformer, causal": Variant("linear_transformer", lambda n: dict(causal=True)),
    "linear_transformer_step": Variant("linear_transformer_step", call=_prompt_then_steps, single=_prompt),
    "performer": Variant("performer", _features, letters=_feature_count),
    "performer, causal": Variant("performer", lambda n: _features(n) | dict(causal=True),
                                 letters=_feature_count),
    "performer_step": Variant("performer_step", _features, call=_prompt_then_steps, letters=_feature_count,
                              single=_prompt),
}

time_kernel, track_kernel_memory, track_kernel_error, track_kernel_ratio = measure.benchmarks(
    "kernel", "Kernel attention", VARIANTS)
