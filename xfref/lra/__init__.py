"""The tasks and the measure of Long Range Arena, in reading order.

"Long Range Arena: A Benchmark for Efficient Transformers", Tay et al., 2020, arXiv:2011.04006.

listops                 nested lists of digits to be evaluated (section 2.2.1)
text                    a text as a sequence of bytes (section 2.2.2)
retrieval               two texts, linked or not (section 2.2.3)
pixels                  an image as a sequence of grey levels (section 2.2.4)
pathfinder              two dots on one dashed path or on two, up to Path-X (sections 2.2.5 and 2.2.6);
                        `xfaccel.lra.pathfinder` draws the same pictures fast
streams                 text8, enwik8 and other long files of which the next byte is predicted
baselines               what is reached on each task without learning anything long
required_span           how far an attention reaches, from its weights (section 2.3)
required_span_linear    the same for kernel attention, without the weights
"""

from . import baselines, listops, pathfinder, pixels, retrieval, streams, text
from .span import required_span, required_span_linear

__all__ = [
    "listops",
    "text",
    "retrieval",
    "pixels",
    "pathfinder",
    "streams",
    "baselines",
    "required_span",
    "required_span_linear",
]
