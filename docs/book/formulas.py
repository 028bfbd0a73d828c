r"""Formulas as SVG, laid out at build time: no script, no font and no request when a page is read.

Where a formula has a \qquad, it may break on a narrow screen.
"""

import re
from html import escape

import ziafont
import ziamath
from docutils import nodes
from sphinx.errors import ExtensionError

SIZE = 16     # of the layout; pages scale by it, in em
DEPTH = "[depth]"
TALLEST = 6   # in em: brackets around some expressions are stretched without an end

ziafont.config.svg2 = False  # outlines where they stand: symbols would share their ids within a page


def svg(latex: str, *, inline: bool) -> tuple[str, float]:
    """A formula in the colour and the size of the text around it, and its depth below the line in em. The
    mark DEPTH in its style stands for what a line of text, or of formulas, does with that."""
    text = ziamath.Latex(latex, size=SIZE, color="currentColor", inline=inline).svg()
    left, top, width, height = (float(x) for x in re.search(r'viewBox="([^"]*)"', text)[1].split())
    if height > TALLEST * SIZE:
        raise ExtensionError(f"a formula came out {height / SIZE:.0f} em tall; word it otherwise: {latex}")
    style = f"width:{width / SIZE:.3f}em;height:{height / SIZE:.3f}em;{DEPTH}"
    start = (f'<svg class="formula" role="img" aria-label="{escape(" ".join(latex.split()))}" '
             f'style="{style}" viewBox="{left} {top} {width} {height}">')
    return re.sub(r"<svg [^>]*>", lambda found: start, text, count=1), (height + top) / SIZE


def _inline(translator, node):
    drawn, depth = svg(node.astext(), inline=True)
    translator.body.append(drawn.replace(DEPTH, f"vertical-align:{-depth:.3f}em", 1))
    raise nodes.SkipNode


def _display(translator, node):
    parts = [svg(part, inline=False) for part in re.split(r"\\qquad", node.astext())]
    deepest = max(depth for _, depth in parts)
    shown = (drawn.replace(DEPTH, f"margin-bottom:{deepest - depth:.3f}em", 1) for drawn, depth in parts)
    translator.body.append(f'<div class="formula">{"".join(shown)}</div>')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("svg", (_inline, None), (_display, None))
