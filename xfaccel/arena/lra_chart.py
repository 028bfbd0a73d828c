"""The chart of whole encoders: speed, the paper's score and memory, here and in the paper (LRA, Figure 3)."""

from xfaccel.arena import lra
from xfaccel.arena.chart import COLOR, LARGEST_DISC, by_speed, label, saved
from xfaccel.arena.table import digits, machine
from xfref.lra import published

TASK = "text"  # that of the paper's figure


def svg(report: dict) -> bytes:
    """`draw` as a file; the same report gives the same bytes."""
    return saved(lambda: draw(report))


def discs(report: dict) -> tuple[int, dict[str, published.Disc]]:
    """The longest n of the text task that was measured, and a disc for each model of Table 1 that was.

    Its score is the paper's: nothing here is trained.
    """
    cells = [cell for cell in report["cells"]
             if cell["task"] == TASK and cell["attention_seconds"] is not None]
    n = max((cell["length"] for cell in cells), default=0)
    names = {cell["variant"]: cell for cell in cells if cell["length"] == n}
    return n, {model: published.Disc(1 / lra.step_seconds(report, names[name]),
                                     published.ACCURACY[model].average, names[name]["attention_bytes"] / 1e9)
               for name, model in lra.MODELS.items() if name in names}


def draw(report: dict) -> "matplotlib.figure.Figure":  # noqa: F821, imported where it is needed
    """Two panels with one scale of scores: the encoder on this machine, and the paper's figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n, own = discs(report)
    figure = Figure(figsize=(12, 6))
    FigureCanvasAgg(figure)  # measures the labels, without a display
    left = figure.add_axes((0.06, 0.14, 0.45, 0.68))
    right = figure.add_axes((0.54, 0.14, 0.45, 0.68), sharey=left)
    for axes, found, words in (
            (left, own, f"sequences of {n} bytes a second, forward, here"),
            (right, published.FIGURE_3, "examples of 4000 bytes a second, training, 4 x 4 TPU v3 chips")):
        _panel(axes, found, words)
    left.set_ylim(45, 57)
    left.set_ylabel("average score of the paper's Table 1, per cent")
    right.tick_params(labelleft=False)
    for axes, found in ((left, own), (right, published.FIGURE_3)):
        points = [(disc.examples_per_second, disc.score) for disc in found.values()]
        label(axes, points, _areas(found), list(found), [COLOR] * len(found))
    figure.text(0.06, 0.93, "Long Range Arena, Figure 3: speed, score and memory", fontsize=14, weight="bold")
    largest = max((disc.gigabytes for disc in own.values()), default=0)
    figure.text(0.06, 0.855, "disc area is memory: here that of one call of the attention beside its inputs "
                f"and result, the largest {digits(largest * 1e3)} MB;\nin the paper that of a chip, the "
                "largest 9.48 GB. Scores are the paper's in both panels, as nothing is trained here")
    figure.text(0.06, 0.03, f"{machine(report['machine'])}; {report['profile']} sizes, {report['dtype']}",
                fontsize=8, color="0.4")
    return figure


def _areas(found: dict[str, published.Disc]) -> list[float]:
    largest = max((disc.gigabytes for disc in found.values()), default=1)
    return [LARGEST_DISC * disc.gigabytes / largest for disc in found.values()]


def _panel(axes, found: dict[str, published.Disc], words: str) -> None:
    x, y = [disc.examples_per_second for disc in found.values()], [disc.score for disc in found.values()]
    axes.scatter(x, y, s=_areas(found), c=COLOR, alpha=0.35, linewidths=0)
    axes.scatter(x, y, s=9, c=COLOR)  # the place of discs too small to see
    axes.set_xlim(min(x, default=1) / 2, max(x, default=1) * 2.5)  # room for names
    by_speed(axes, words)
