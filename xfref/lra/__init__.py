"""The tasks and the measure of Long Range Arena, in reading order.

"Long Range Arena: A Benchmark for Efficient Transformers", Tay et al., 2020, arXiv:2011.04006.

listops                 nested lists of digits to be evaluated (section 2.2.1)
text                    a text as a sequence of bytes (section 2.2.2)
required_span           how far an attention reaches, from its weights (section 2.3)
required_span_linear    the same for kernel attention, without the weights
"""

from . import listops, text
from .span import required_span, required_span_linear

__all__ = ["listops", "text", "required_span", "required_span_linear"]
