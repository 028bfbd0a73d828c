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
TALLEST = 6   # in em: brackets around some expressions are stretched without an end

ziafont.config.svg2 = False  # outlines where they stand: symbols would share their ids within a page


def svg(latex: str, *, inline: bool) -> str:
    """A formula in the colour and the size of the text around it, on the line that the text stands on."""
    text = ziamath.Latex(latex, size=SIZE, color="currentColor", inline=inline).svg()
    left, top, width, height = (float(x) for x in re.search(r'viewBox="([^"]*)"', text)[1].split())
    if height > TALLEST * SIZE:
        raise ExtensionError(f"a formula came out {height / SIZE:.0f} em tall; word it otherwise: {latex}")
    style = (f"width:{width / SIZE:.3f}em;height:{height / SIZE:.3f}em;"
             f"vertical-align:{-(height + top) / SIZE:.3f}em")  # what hangs below the line
    start = (f'<svg class="formula" role="img" aria-label="{escape(" ".join(latex.split()))}" '
             f'style="{style}" viewBox="{left} {top} {width} {height}">')
    return re.sub(r"<svg [^>]*>", lambda found: start, text, count=1)


def _inline(translator, node):
    translator.body.append(svg(node.astext(), inline=True))
    raise nodes.SkipNode


def _display(translator, node):
    parts = (svg(part, inline=False) for part in re.split(r"\\qquad", node.astext()))
    translator.body.append(f'<div class="formula">{" ".join(parts)}</div>')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("svg", (_inline, None), (_display, None))
