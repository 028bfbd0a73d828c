"""How Sphinx builds the book; the extension `book`, beside this file, makes it from the code."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "tests")]

project = "xfref and xfaccel"
author = "the xfaccel developers"
extensions = ["myst_parser", "book"]
exclude_patterns = ["build"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

html_math_renderer = "svg"
html_theme = "pydata_sphinx_theme"
html_title = "xfref and xfaccel"
html_static_path = ["static"]
html_favicon = "static/icon.svg"
html_css_files = ["book.css"]
html_context = {"default_mode": "auto"}
html_use_index = html_domain_indices = False  # the search finds names
html_copy_source = html_show_sourcelink = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "footer_start": [],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
    "header_links_before_dropdown": 9,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
# a page outside the papers has no neighbours to list
html_sidebars = {path.stem: [] for path in HERE.glob("*.md")}
highlight_language = "none"  # what has no language of its own is no code
