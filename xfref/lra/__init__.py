"""The tasks, the encoder and the measures of Long Range Arena, in reading order.

"Long Range Arena: A Benchmark for Efficient Transformers", Tay et al., 2020, arXiv:2011.04006.

listops                 nested lists of digits to be evaluated (section 2.2.1)
text                    a text as a sequence of bytes (section 2.2.2)
retrieval               two texts, linked or not (section 2.2.3)
pixels                  an image as a sequence of grey levels (section 2.2.4)
pathfinder              two dots on one dashed path or on two, up to Path-X (sections 2.2.5 and 2.2.6);
                        `xfaccel.lra.pathfinder` draws the same pictures fast
streams                 text8, enwik8 and other long files of which the next byte is predicted
baselines               what is reached on each task without learning anything long
encoder                 the encoder around any attention, and its sizes (section 3.2 and appendix A)
required_span           how far an attention reaches, from its weights (section 2.3)
required_span_softmax   the same for softmax attention, without the weights
required_span_linear    for kernel attention
required_span_of        for any attention that is linear in its values
uniform_span            the span of uniform attention, to read the others by
published               the numbers that the paper prints (tables 1 and 2, figures 2 and 3)
"""

from . import baselines, encoder, listops, pathfinder, pixels, published, retrieval, streams, text
from .span import (
    required_span,
    required_span_linear,
    required_span_of,
    required_span_softmax,
    uniform_span,
)

__all__ = [
    "listops",
    "text",
    "retrieval",
    "pixels",
    "pathfinder",
    "streams",
    "baselines",
    "encoder",
    "required_span",
    "required_span_softmax",
    "required_span_linear",
    "required_span_of",
    "uniform_span",
    "published",
]
