"""The book in a browser without a network: every page, in a wide window and on a telephone."""

import os
from pathlib import Path

import pytest

HTML = Path(__file__).parents[2] / "docs" / "build" / "html"
PAGES = [path.relative_to(HTML).as_posix() for path in sorted(HTML.glob("**/*.html"))
         if "_static" not in path.parts]
WIDTHS = [390, 1400]
BEYOND = """[...document.querySelectorAll(
        "article :is(p, li, dd, h3) code, .page-toc code, .prev-next-area i")].filter(x => x.offsetParent
    && !x.closest("table") && x.getBoundingClientRect().right > innerWidth + 1)
    .map(x => x.textContent)"""  # tables scroll by themselves


@pytest.fixture(scope="session")
def address(serve):
    if not PAGES:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no book here: make docs builds it")
    return serve(HTML)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_is_whole(address, visit, picture, width):
    seen = visit(f"{address}/index.html", width)
    for name in PAGES:
        seen.page.goto(f"{address}/{name}")
        picture(seen, f"{name.replace('/', '-').removesuffix('.html')}-{width}")
        assert not seen.errors and not seen.failed, name
        assert seen.overhang <= 0, f"{name}: {seen.overhang} pixels stand out on the right"
        assert not seen.page.evaluate(BEYOND), f"{name}: cut off on the right"
        drawn = seen.page.locator("article svg.formula, article .matrices svg")
        assert all(min(box) > 1 for box in drawn.evaluate_all("all => all.map(x => [x.clientWidth, "
                                                              "x.clientHeight])")), name
        if name.startswith("papers/") and name != "papers/index.html":
            assert seen.page.locator("div.formula svg path").count(), f"{name} has no formula"
            assert seen.page.locator(".matrices svg path").count(), f"{name} has no picture"


def test_the_modules_of_the_arena_are_listed(address, visit):
    forms = visit(f"{address}/lra.html").page.locator("article dt code.form").all_inner_texts()
    assert {"generate(rng", "pad(examples"} <= {form.split(",")[0] for form in forms}


def test_a_wide_formula_can_be_scrolled_to_its_end(address, visit):
    """What is wider than the screen scrolls by itself."""
    page = visit(f"{address}/papers/linear_transformer.html", 390).page
    wide = page.locator("div.formula").first
    assert wide.evaluate("x => getComputedStyle(x).overflowX") == "auto"
    reached = wide.evaluate("x => { x.scrollLeft = 1e6; "
                            "return x.lastElementChild.getBoundingClientRect().right - innerWidth }")
    assert reached <= 0


@pytest.mark.parametrize("words, found", [("linear_transformer_step", "Linear Transformer"),
                                          ("hash direction bucket", "Reformer"),
                                          ("required_span", "Long Range Arena")])
def test_the_search_finds_names_and_words(address, visit, words, found):
    seen = visit(f"{address}/search.html?q={words.replace(' ', '+')}")
    seen.page.wait_for_selector("#search-results li")
    assert found in " ".join(seen.page.locator("#search-results li").all_inner_texts())
    assert not seen.errors and not seen.failed
