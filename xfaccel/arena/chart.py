"""The chart of the arena: speed against distance to exact attention (LRA, Figure 3)."""

import io
from collections.abc import Callable
from itertools import product

import numpy as np

from xfaccel.arena.table import digits, machine

LARGEST_DISC = 50**2  # square points, of the box around it
COLOR, CAUSAL_COLOR = "#1f6fb2", "#c2571a"


def svg(report: dict) -> bytes:
    """`draw` as a file; the same report gives the same bytes."""
    return saved(lambda: draw(report))


def saved(drawing: Callable) -> bytes:
    """The figure that `drawing` makes, as SVG without a date or a number of its own."""
    from matplotlib import rc_context

    image = io.BytesIO()
    with rc_context({"svg.hashsalt": "xfaccel"}):
        drawing().savefig(image, format="svg", metadata={"Date": None})
    return image.getvalue()


def draw(report: dict) -> "matplotlib.figure.Figure":  # noqa: F821, imported where it is needed
    """Speed against distance to exact attention, disc area = extra memory (LRA, Figure 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    given, n = report["input"], report["input"]["lengths"][-1]
    rows = [row for row in report["rows"] if row["distance"] is not None]
    x, y = [1 / row["seconds"][str(n)] for row in rows], [row["distance"] for row in rows]
    largest = max([row["extra_bytes"] for row in rows] + [1])
    figure = Figure(figsize=(9, 7))
    FigureCanvasAgg(figure)  # measures the labels, without a display
    axes = figure.add_axes((0.08, 0.14, 0.9, 0.75))
    axes.set_yscale("symlog", linthresh=1, linscale=2)  # a result of zeros has distance 1, few are beyond
    areas = [LARGEST_DISC * row["extra_bytes"] / largest for row in rows]
    colors = [CAUSAL_COLOR if row["exact"] == "attention-causal" else COLOR for row in rows]
    axes.scatter(x, y, s=areas, c=colors, alpha=0.35, linewidths=0)
    axes.scatter(x, y, s=9, c=colors)  # the place of discs too small to see
    axes.set_xlim(min(x, default=1) / 1.8, max(x, default=1) * 1.8)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1, 2, 5, 10, 20, 50, 100])
    axes.set_ylim(-0.12, max([1.3] + [2 * distance for distance in y]))  # room for a disc
    axes.yaxis.set_major_formatter("{x:g}")
    by_speed(axes, f"sequences of {n} tokens a second (further right is faster)")
    axes.set_ylabel("distance to exact attention (0: same result; logarithmic above 1)")
    figure.text(0.08, 0.945, "Speed against distance to exact attention", fontsize=14, weight="bold")
    figure.text(0.08, 0.905, "untrained weights, so this is cost, not accuracy; "
                             f"disc area is extra memory, the largest {digits(largest / 2**20)} MiB")
    figure.text(0.08, 0.03, f"{machine(report['machine'])}; {given['heads']} heads, width {given['width']}, "
                            f"{given['dtype']}", fontsize=8, color="0.4")
    figure.text(0.98, 0.945, "both directions", color=COLOR, ha="right")
    figure.text(0.98, 0.905, "causal", color=CAUSAL_COLOR, ha="right")
    label(axes, list(zip(x, y, strict=True)), areas, [row["variant"] for row in rows], colors)
    return figure


def by_speed(axes, words: str) -> None:
    """The horizontal axis, of speeds, as every chart has it."""
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(words)


def label(axes, points, areas, names, colors) -> None:
    """Write each name beside its disc, at the nearest place where it covers no disc and no other name."""
    from matplotlib.transforms import Bbox

    renderer, pixel, frame = axes.figure.canvas.get_renderer(), axes.figure.dpi / 72, axes.bbox
    radii = [max(area**0.5 / 2, 2) * pixel for area in areas]
    centres = [axes.transData.transform(point) for point in points]
    taken = [Bbox([centre - radius, centre + radius]) for centre, radius in zip(centres, radii, strict=True)]
    angles = np.pi * np.array([0, 1, 0.5, 1.5, 0.25, 0.75, 1.75, 1.25])
    for point, radius, name, color in zip(points, radii, names, colors, strict=True):
        line = dict(arrowstyle="-", color=color, linewidth=0.5, alpha=0.6)
        label = axes.annotate(name, point, xytext=(0, 0), textcoords="offset pixels", ha="center",
                              va="center", fontsize=9, color=color, arrowprops=line)
        box = label.get_window_extent(renderer)
        for gap, angle in product(range(4, 200, 6), angles):
            shift = np.array([np.cos(angle), np.sin(angle)]) * (
                radius + gap * pixel + np.array([box.width, box.height]) / 2)
            place = box.translated(*shift)
            inside = frame.x0 < place.x0 and place.x1 < frame.x1 and frame.y0 < place.y0 < place.y1 < frame.y1
            if inside and not place.count_overlaps(taken):
                break
        label.set_position(shift)
        label.arrow_patch.set_visible(gap > 4)  # a name beside its disc needs no line
        taken.append(place)
