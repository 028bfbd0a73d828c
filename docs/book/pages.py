"""The parts of a page that are made from the code: its head, its source, its costs, and the tables of all.

    ```{paper} xfref.fixed.longformer     what the file says of itself: the idea, title, authors, link
    ```{differs} xfref.fixed.longformer   and where it differs from the paper
    ```{source} xfref.fixed.longformer    the file in full, each docstring set as text above its code
    ```{outline} xfref.lra.listops        its head and what its functions are for, without the code
    ```{costs} xfref.fixed.longformer     stated cost and memory, and the rows of the arena
    ```{generated} capabilities           a table of all functions, see `tables`
"""

import ast
import importlib
import inspect
import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from book import tables
from book.links import names

ROOT = Path(__file__).parents[2]
SHAPES = re.compile(r"^(?:\(\S*?\)(?:,\(\S*?\))* ?)?-> ?(?:state, )?\(\S*?\)(?:,\(\S*?\))*(?=[\s.,;:]|$)")
DIFFERS = "Differs: "


class Part(SphinxDirective):
    """A part of a page that is made from the module, or the table, named by its argument."""

    required_arguments = 1

    def module(self):
        module = importlib.import_module(self.arguments[0])
        self.env.note_dependency(module.__file__)
        return module

    def registered(self, name: str, section: nodes.section, kind: str = "function") -> nodes.section:
        """The section as the place where links to `name` lead."""
        self.state.document.note_explicit_target(section)
        python = self.env.get_domain("py")
        python.note_object(name, kind, section["ids"][0], location=section)
        if kind == "module":
            python.note_module(name, section["ids"][0], "", "", False)
        return section

    def markdown(self, text: str) -> list[nodes.Node]:
        container = nodes.Element()
        lines = StringList(text.splitlines(), self.arguments[0])
        self.state.nested_parse(lines, self.content_offset, container)
        return container.children


class Paper(Part):
    def run(self):
        _, source, *rest = head(self.module())
        return [nodes.paragraph("", "", *inline(tables.idea(self.module())), classes=["idea"]),
                nodes.paragraph("", "", *titled(source)),
                *(nodes.paragraph("", "", *inline(text)) for text in rest if not text.startswith(DIFFERS))]


class Differs(Part):
    def run(self):
        found = [text.removeprefix(DIFFERS) for text in head(self.module()) if text.startswith(DIFFERS)]
        return [nodes.paragraph("", "", nodes.strong("", "This page: "), *inline(text)) for text in found]


class Source(Part):
    def run(self):
        module = self.module()
        text = Path(module.__file__).read_text()
        lines, tree = text.splitlines(), ast.parse(text)
        public = {id(inspect.unwrap(x)): name for name, x in names().items() if inspect.isfunction(x)}
        path = Path(module.__file__).relative_to(ROOT).as_posix()
        shown = [nodes.paragraph("", "", nodes.literal(path, path))]
        start = tree.body[0].end_lineno  # the head is what the page begins with
        for node in tree.body[1:]:
            function = getattr(module, getattr(node, "name", ""), None)
            if not inspect.isfunction(function):
                continue
            # what papers share has an equation and shapes too
            own = node.name if len(paragraphs(inspect.getdoc(function) or "")) > 2 else None
            name = public.get(id(inspect.unwrap(function)), own)
            if name is None:
                continue
            shown += code(lines, start, node.lineno - 1)
            shown.append(self._function(name, node, lines))
            start = node.end_lineno
        return shown + code(lines, start, len(lines))

    def _function(self, name: str, node: ast.FunctionDef, lines: list[str]) -> nodes.section:
        """A section: the signature, the docstring as text, the body."""
        docstring = node.body[0]
        section = nodes.section("", nodes.title("", "", nodes.literal(name, name)), ids=[f"function-{name}"])
        section += code(lines, node.lineno - 1, docstring.lineno - 1)
        section += nodes.container("", *docstring_nodes(ast.get_docstring(node)), classes=["docstring"])
        section += code(lines, docstring.end_lineno, node.end_lineno)
        return self.registered(name, section)


class Outline(Part):
    """A module too long to be read in one go: its head, and what each public function is for."""

    def run(self):
        module = self.module()
        name = module.__name__.partition(".")[2]
        first, *rest = head(module)
        section = nodes.section("", nodes.title("", "", nodes.literal(name, name)), ids=[f"module-{name}"])
        section += [nodes.paragraph("", "", *inline(text)) for text in (first, *rest)]
        functions = nodes.definition_list()
        for key, x in vars(module).items():
            if inspect.isfunction(x) and x.__module__ == module.__name__ and not key.startswith("_"):
                form = f"{key}({', '.join(inspect.signature(x).parameters)})"
                does = nodes.paragraph("", "", *inline(paragraphs(inspect.getdoc(x))[0]))
                term = nodes.term("", "", nodes.literal(form, form, classes=["form"]))
                functions += nodes.definition_list_item("", term, nodes.definition("", does))
        section += functions
        return [self.registered(name, section, "module")]


class Costs(Part):
    def run(self):
        return self.markdown(tables.costs(self.module()))


class Generated(Part):
    def run(self):
        return self.markdown(getattr(tables, self.arguments[0])())


def head(module) -> list[str]:
    """The paragraphs that a file begins with."""
    return paragraphs(inspect.getdoc(module))


def paragraphs(text: str) -> list[str]:
    return [part.strip("\n") for part in re.split(r"\n\s*\n", text)]


def code(lines: list[str], start: int, stop: int) -> list[nodes.Node]:
    """Lines start..stop of a file as a numbered listing; nothing for blank ones."""
    while start < stop and not lines[start].strip():
        start += 1
    while stop > start and not lines[stop - 1].strip():
        stop -= 1
    text = "\n".join(lines[start:stop])
    return [nodes.literal_block(text, text, language="python3", linenos=True,
                                highlight_args=dict(linenostart=start + 1))] if text else []


def docstring_nodes(text: str) -> list[nodes.Node]:
    """A docstring of the house: a sentence, the equation, shapes, parameters, errors, cost, an example."""
    shown = []
    for place, part in enumerate(paragraphs(text)):
        if part.startswith(">>> "):
            shown.append(nodes.literal_block(part, part, language="pycon"))
        elif place == 1 and not part.endswith("."):
            shown.append(nodes.literal_block(part, part, language="none", classes=["equation"]))
        elif part.startswith("- "):
            items = re.split(r"\n(?=- )|^(?=- )", part)
            shown.append(nodes.bullet_list("", *(
                nodes.list_item("", nodes.paragraph("", "", *inline(item[2:]))) for item in items if item)))
        elif re.search(r"\n {4}", part) and not part.startswith("Raises"):  # an equation of several lines
            shown.append(nodes.literal_block(part, part, language="none", classes=["equation"]))
        else:
            shown += [nodes.paragraph("", "", *inline(piece))
                      for piece in re.split(r"\n(?=(?:Raises|Cost|Memory): )", part)]
    return shown


def inline(text: str) -> list[nodes.Node]:
    """Text with `code` in it; a line on shapes begins with code too."""
    text, found = " ".join(text.split()), []
    shapes = SHAPES.match(text)
    if shapes:
        found.append(nodes.literal(shapes[0], shapes[0]))
        text = text[shapes.end():]
    for place, piece in enumerate(text.split("`")):
        if piece:
            found.append(nodes.literal(piece, piece) if place % 2 else nodes.Text(piece))
    return found


def titled(text: str) -> list[nodes.Node]:
    """A source, "Title. Authors. Year.", with its title in italics; other text as it is."""
    text = " ".join(text.split())
    found = re.match(r"([^(]+?)\. (?=[A-Z][\w-]+[ ,.])", text)
    return [nodes.emphasis("", found[1]), *inline(text[found.end(1):])] if found else inline(text)


def setup(app):
    for name, directive in dict(paper=Paper, differs=Differs, source=Source, outline=Outline,
                                costs=Costs, generated=Generated).items():
        app.add_directive(name, directive)
