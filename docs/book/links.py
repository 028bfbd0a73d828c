"""Names of functions in the text become links to where the book has them, arXiv numbers to arXiv."""

import functools
import inspect
import re
from types import ModuleType

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

import xfaccel
import xfref

ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


@functools.cache
def names() -> dict[str, object]:
    """Every public function by the name that users call it by, without the package."""
    found = {name: getattr(xfref, name) for name in xfref.__all__}
    found |= {name: getattr(xfaccel, name) for name in xfaccel.__all__ if name not in found}
    for module in ("patterns", "lra"):
        room = found.pop(module)
        found |= {f"{module}.{name}": x for name, x in vars(room).items() if not name.startswith("_")
                  and (name in getattr(room, "__all__", ()) or _own(room, x))}
    return found


def members(module: ModuleType) -> list[str]:
    """The public functions that a module defines, by the names of `names`."""
    return [name for name, x in names().items() if inspect.isfunction(x) and _own(module, inspect.unwrap(x))]


def _own(module: ModuleType, x: object) -> bool:
    return inspect.isfunction(x) and x.__module__ == module.__name__


class Links(SphinxTransform):
    """`longformer`, `xfref.longformer` and `longformer(...)` lead to the page of longformer, arXiv:2004.05150
    to its paper."""

    default_priority = 210

    def apply(self):
        own_words = self.env.docname == "contributing"  # whose `softmax` is an engine
        for node in [] if own_words else list(self.document.findall(nodes.literal)):
            target = node.astext().split("(")[0].removeprefix("xfref.").removeprefix("xfaccel.")
            if target in names() and not isinstance(node.parent, nodes.title | nodes.reference):
                link = addnodes.pending_xref("", refdomain="py", reftype="obj", reftarget=target,
                                             refdoc=self.env.docname, refexplicit=True, refspecific=False)
                node.replace_self(link)
                link += node
        for node in list(self.document.findall(nodes.Text)):
            parts = ARXIV.split(node)
            if len(parts) > 1 and not isinstance(node.parent, nodes.FixedTextElement | nodes.reference):
                shown = [nodes.reference("", f"arXiv:{part}", refuri=f"https://arxiv.org/abs/{part}")
                         if place % 2 else nodes.Text(part) for place, part in enumerate(parts)]
                node.parent.replace(node, shown)


def setup(app):
    app.add_transform(Links)
