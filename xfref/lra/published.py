"""What the paper prints: accuracies, speed, memory, the chart of all three, and the spans of its tasks.

"Long Range Arena: A Benchmark for Efficient Transformers", Tay et al., 2020, arXiv:2011.04006: Tables 1, 2
and 3, Figures 2 and 3. Numbers that cannot be as they stand are kept as printed, and `DOUBTS` says why.

Table 1, accuracy in per cent. No model learned Path-X (printed FAIL: nan here), which the average leaves out.
Table 2, training steps a second and gigabytes for each of 4 x 4 TPU v3 chips, text at 1000 to 4000 bytes, a
batch of 32. The paper does not say whether that is for all chips together; the memory of exact attention,
0.28 + 0.576 (n / 1000)^2 GB to a few per cent, is one sequence times 6 layers times 8 heads times three
float32 matrices, so one sequence for each of 32 cores, in the paper's encoder. Longformer and the Sparse
Transformer are not in it: they ran as exact attention under a mask.
Figure 3, examples a second (32 times the steps at 4000), the average of Table 1, and a disc whose area is the
memory at 4000.
"""

from math import nan
from typing import NamedTuple

LENGTHS = (1000, 2000, 3000, 4000)  # bytes, of Table 2
BATCH = 32


class Accuracy(NamedTuple):
    """A row of Table 1, in per cent."""

    listops: float
    text: float
    retrieval: float
    image: float
    pathfinder: float
    pathx: float
    average: float


class Efficiency(NamedTuple):
    """A row of Table 2: training steps a second, and gigabytes for each device, at the four `LENGTHS`."""

    steps: tuple[float, ...]
    gigabytes: tuple[float, ...]


class Disc(NamedTuple):
    """A disc of Figure 3."""

    examples_per_second: float
    score: float
    gigabytes: float


ACCURACY = {
    "Transformer": Accuracy(36.37, 64.27, 57.46, 42.44, 71.40, nan, 54.39),
    "Local Attention": Accuracy(15.82, 52.98, 53.39, 41.46, 66.63, nan, 46.06),
    "Sparse Transformer": Accuracy(17.07, 63.58, 59.59, 44.24, 71.71, nan, 51.24),
    "Longformer": Accuracy(35.63, 62.85, 56.89, 42.22, 69.71, nan, 53.46),
    "Linformer": Accuracy(35.70, 53.94, 52.27, 38.56, 76.34, nan, 51.36),
    "Reformer": Accuracy(37.27, 56.10, 53.40, 38.07, 68.50, nan, 50.67),
    "Sinkhorn Transformer": Accuracy(33.67, 61.20, 53.83, 41.23, 67.45, nan, 51.39),
    "Synthesizer": Accuracy(36.99, 61.68, 54.67, 41.61, 69.45, nan, 52.88),
    "BigBird": Accuracy(36.05, 64.02, 59.29, 40.83, 74.87, nan, 55.01),
    "Linear Transformer": Accuracy(16.13, 65.90, 53.09, 42.34, 75.30, nan, 50.55),
    "Performer": Accuracy(18.01, 65.40, 53.82, 42.77, 77.05, nan, 51.41),
}
EFFICIENCY = {
    "Transformer": Efficiency((8.1, 4.9, 2.3, 1.4), (0.85, 2.65, 5.51, 9.48)),
    "Local Attention": Efficiency((9.2, 8.4, 7.4, 7.4), (0.42, 0.76, 1.06, 1.37)),
    "Linformer": Efficiency((9.3, 9.1, 8.5, 7.7), (0.37, 0.55, 0.99, 0.99)),
    "Reformer": Efficiency((4.4, 2.2, 1.5, 1.1), (0.48, 0.99, 1.53, 2.28)),
    "Sinkhorn Transformer": Efficiency((9.1, 7.9, 6.6, 5.3), (0.47, 0.83, 1.13, 1.48)),
    "Synthesizer": Efficiency((8.7, 5.7, 6.6, 1.9), (0.65, 1.98, 4.09, 6.99)),
    "BigBird": Efficiency((7.4, 3.9, 2.7, 1.5), (0.77, 1.49, 2.18, 2.88)),
    "Linear Transformer": Efficiency((9.1, 9.3, 8.6, 7.8), (0.37, 0.57, 0.80, 1.03)),
    "Performer": Efficiency((9.5, 9.4, 8.7, 8.0), (0.37, 0.59, 0.82, 1.06)),
}
# per cent of the image task (Table 3): test and training; the test is the column of Table 1
IMAGE_TEST_AND_TRAINING = {
    "Transformer": (42.44, 69.45), "Local Attention": (41.46, 63.19), "Sparse Transformer": (44.24, 66.74),
    "Longformer": (42.22, 71.65), "Linformer": (38.56, 97.23), "Reformer": (38.07, 68.45),
    "Sinkhorn Transformer": (41.23, 69.21), "Synthesizer": (41.61, 97.31), "BigBird": (40.83, 71.49),
    "Linear Transformer": (42.34, 65.61), "Performer": (42.77, 73.90),
}
SPANS = {  # heights of the bars of Figure 2, read off: tokens, and the length of the task
    "listops": (750, 2000), "text": (350, 4000), "retrieval": (1350, 4000), "image": (250, 1024),
    "pathfinder": (550, 1024),
}
FIGURE_3 = {model: Disc(BATCH * row.steps[-1], ACCURACY[model].average, row.gigabytes[-1])
            for model, row in EFFICIENCY.items()}

DOUBTS = {  # (table, model, column): why
    (1, "Sinkhorn Transformer", "average"):
        "the five tasks average 51.48; the released code's page prints 51.29",
    (2, "Synthesizer", "steps at 3000"):
        "between 5.7 and 1.9 at 2000 and 4000, and the number of the Sinkhorn Transformer",
    (2, "Linformer", "gigabytes at 3000"):
        "the same number as at 4000, where 2000 to 4000 grows by 0.44",
}


def doubtful(table: int, model: str, column: str) -> bool:
    """Whether a number is one of those in doubt; Figure 3 is drawn from Tables 1 and 2.

    >>> doubtful(2, "Synthesizer", "steps at 3000"), doubtful(2, "Synthesizer", "steps at 4000")
    (True, False)
    """
    return (table, model, column) in DOUBTS
