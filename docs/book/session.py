"""Python blocks run as the pages are read: each page is one session, and an error fails the build.

A kernel of Jupyter's for every page would take longer than all the rest of the build; a page is a few dozen
lines of NumPy, so they run here, in a namespace of their own.

    ```python        runs; what it prints, and the value of a last line that is an expression, follows it
    ```{picture} x   draws the matrix x, or several in a row, by an expression of the page's session
"""

import ast
import contextlib
import io

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.errors import ExtensionError
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

from book import pictures


class picture(nodes.General, nodes.Element):
    """Where a picture will stand, until the session of the page has what it shows."""


class Picture(SphinxDirective):
    """Who sees whom: the weights named by the argument, a query a row and a key a column."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True  # the caption
    option_spec = {"keys": directives.unchanged, "queries": directives.unchanged,
                   "image": lambda given: True,
                   "borders": lambda given: tuple(map(int, given.split()))}

    def run(self):
        node = picture(expression=self.arguments[0], line=self.lineno, options=self.options)
        caption = nodes.caption()
        caption += [child for part in self.parse_content_to_nodes() for child in part.children]
        if "image" not in self.options:
            caption += nodes.Text(" Dark is the largest weight of a row, white is not seen.")
        return [nodes.figure("", node, caption, classes=["picture"])]


class Session(SphinxTransform):
    """Runs the Python blocks of a page, in order, and puts their results behind them."""

    default_priority = 100  # before anything looks at what is inside the blocks

    def apply(self):
        names = {"__name__": self.env.docname}
        for node in list(self.document.findall(lambda x: isinstance(x, picture) or _runs(x))):
            if isinstance(node, picture):
                with self._place(node):
                    shown = eval(node["expression"], names)
                text = pictures.svg(shown, node.parent.children[1].astext(), **node["options"])
                node.replace_self(nodes.raw("", text, format="html"))
                continue
            with self._place(node):
                shown = run(node.astext(), names)
            if shown:
                output = nodes.literal_block(shown, shown, language="none", classes=["output"])
                node.parent.insert(node.parent.index(node) + 1, output)

    @contextlib.contextmanager
    def _place(self, node):
        """Says where in the book an error was raised."""
        try:
            yield
        except Exception as error:
            place = f"{self.env.docname}, line {node.get('line') or node.line}"
            raise ExtensionError(f"{place}: {type(error).__name__}: {error}") from error


def run(source: str, names: dict) -> str:
    """What a block prints, and the value of its last line if that is an expression, as Python shows it."""
    tree, printed = ast.parse(source), io.StringIO()
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<block>", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "<block>", "eval"), names) if last else None
    shown = "" if value is None else repr(value)
    return (printed.getvalue() + shown).rstrip("\n")


def _runs(node) -> bool:
    return isinstance(node, nodes.literal_block) and node.get("language") == "python"


def setup(app):
    app.add_node(picture)
    app.add_directive("picture", Picture)
    app.add_transform(Session)
