"""What the book needs of Sphinx: pages made from the code, blocks that run, formulas and pictures as SVG.

Nothing a reader opens comes from elsewhere: there is no script for the formulas and no font but the system's.
"""

from book import formulas, links, pages, session


def setup(app):
    for part in (formulas, links, pages, session):
        part.setup(app)
    return dict(version="1", parallel_read_safe=True, parallel_write_safe=True)
