"""What is reached without learning anything long: the lines to print beside each task's scores.

"Long Range Arena: A Benchmark for Efficient Transformers", Tay et al., 2020, arXiv:2011.04006, prints none of
them. Each accuracy here is of a guess whose few numbers are fitted to some examples, `fit_...`, and that is
scored on others. Ids are (count, length), of which 0 is padding; labels (count,) count from 0.

ListOps      majority 17 %, first token 36 %: a model that scores 36 % has read one operator
text         majority, histogram
retrieval    majority, `jaccard` with a threshold
pixels       majority, histogram
pathfinder   majority, each of `ink_statistics` with a threshold: at 32 pixels none above 55 %, "easy" and
             "hard" (2000 pictures scored)
streams      `bits_per_byte`
"""

import numpy as np


def majority_accuracy(fit_labels: np.ndarray, labels: np.ndarray) -> float:
    """Share of `labels` that equal the commonest of `fit_labels`; 0 where there are none.

    >>> majority_accuracy(np.array([3, 3, 1]), np.array([3, 1, 3, 3]))
    0.75
    """
    return float(np.mean(labels == np.bincount(fit_labels, minlength=1).argmax()))


def first_token_accuracy(
    fit_ids: np.ndarray, fit_labels: np.ndarray, ids: np.ndarray, labels: np.ndarray
) -> float:
    """Accuracy of a guess from the first token alone: the label it has most often in the fitted examples.

    A first token never fitted gets the commonest label of all.

    >>> fit_ids, fit_labels = np.array([[11, 1], [12, 10]]), np.array([0, 9])
    >>> first_token_accuracy(fit_ids, fit_labels, fit_ids[::-1], fit_labels[::-1])
    1.0
    """
    size = 1 + max(fit_ids.max(initial=0), ids.max(initial=0))
    counts = np.zeros((size, fit_labels.max(initial=0) + 1), int)
    np.add.at(counts, (fit_ids[:, 0], fit_labels), 1)
    guess = np.where(counts.any(axis=1), counts.argmax(axis=1), counts.sum(axis=0).argmax())
    return float(np.mean(labels == guess[ids[:, 0]]))


def histogram_accuracy(
    fit_ids: np.ndarray, fit_labels: np.ndarray, ids: np.ndarray, labels: np.ndarray
) -> float:
    """Accuracy of a guess from how often each id is there, whatever the order: naive Bayes, counts from one.

    The guess is the label under which the ids, as if each were drawn for itself, are the likeliest, times the
    label's share. Padding is left out.

    >>> histogram_accuracy(np.array([[1, 1], [2, 2]]), np.array([0, 1]), np.array([[2, 1, 2]]), np.array([1]))
    1.0
    """
    size = 1 + max(fit_ids.max(initial=0), ids.max(initial=0))
    counts = np.stack([np.bincount(row, minlength=size) for row in ids])[:, 1:]
    classes = [fit_ids[fit_labels == label].ravel() for label in range(fit_labels.max() + 1)]
    fitted = np.stack([np.bincount(x, minlength=size) for x in classes])[:, 1:] + 1
    shares = np.bincount(fit_labels) / len(fit_labels)
    with np.errstate(divide="ignore"):  # a label that no fitted example has: -inf, so never guessed
        score = counts @ np.log(fitted / fitted.sum(axis=1, keepdims=True)).T + np.log(shares)
    return float(np.mean(labels == score.argmax(axis=1)))


def bits_per_byte(fit_ids: np.ndarray, ids: np.ndarray) -> float:
    """What a byte of `ids` costs a model that knows how often each byte is; one added to counts.

    Both are ids of bytes, 1 to 256, of any shape; padding costs nothing and is not counted.

    >>> bits_per_byte(np.zeros(9, int), np.array([[7, 8], [9, 0]]))
    8.0
    """
    counts = np.bincount(np.ravel(fit_ids), minlength=257)[1:] + 1
    seen = np.ravel(ids)
    return float(-np.log2(counts / counts.sum())[seen[seen > 0] - 1].mean())


def jaccard(one: bytes | np.ndarray, two: bytes | np.ndarray, size: int = 5) -> float:
    """How alike two documents are, 0 to 1: the share of their n-grams, of `size` bytes or ids, in both.

    0 where neither has any.

    >>> jaccard(b"abcdef", b"bcdefg")  # bcdef of abcde, bcdef and cdefg
    0.3333333333333333
    """
    sets = [{tuple(x[i : i + size]) for i in range(len(x) - size + 1)} for x in (one, two)]
    return len(sets[0] & sets[1]) / max(len(sets[0] | sets[1]), 1)


def threshold_accuracy(
    fit_scores: np.ndarray, fit_labels: np.ndarray, scores: np.ndarray, labels: np.ndarray
) -> float:
    """Accuracy of a guess whether `scores` (count,) are above a threshold, for labels 0 and 1.

    The threshold, and which side is 1, are those that are right most often in the fitted examples.

    >>> threshold_accuracy(np.array([1, 2, 3, 4]), np.array([1, 1, 0, 0]), np.array([0, 5]), np.array([1, 0]))
    1.0
    """
    order = np.argsort(fit_scores, kind="stable")
    sorted_scores, ones = np.asarray(fit_scores)[order], np.asarray(fit_labels)[order]
    # right[i]: the first i guessed 0 and the others 1; a cut between equal scores is none
    right = np.append(0, np.cumsum(1 - ones)) + ones.sum() - np.append(0, np.cumsum(ones))
    possible = np.append(True, np.append(sorted_scores[1:] > sorted_scores[:-1], True))
    above, below = np.where(possible, right, -1), np.where(possible, len(ones) - right, -1)
    cut, sign = (above.argmax(), 1) if above.max() >= below.max() else (below.argmax(), 0)
    ends = np.concatenate([[-np.inf], sorted_scores, [np.inf]])
    middle = (ends[cut] + ends[cut + 1]) / 2
    return float(np.mean(np.where(np.asarray(scores) > middle, sign, 1 - sign) == labels))


def ink_statistics(images: np.ndarray, side: int = 3) -> dict[str, np.ndarray]:
    """What simple sums say of pictures, uint8 (count, height, width): arrays (count,) by name.

    The ink, the share of pixels that have any, how far it is spread from its centre, and how far apart the
    two brightest squares of `side` pixels a side are that do not overlap: the dots of Pathfinder.
    """
    images = images.astype(float)
    count, height, width = images.shape
    total = np.maximum(images.sum(axis=(1, 2)), 1)
    rows, columns = images.sum(axis=2) / total[:, None], images.sum(axis=1) / total[:, None]
    spread = [
        share @ np.arange(size) ** 2 - (share @ np.arange(size)) ** 2
        for share, size in ((rows, height), (columns, width))
    ]
    squares = np.lib.stride_tricks.sliding_window_view(images, (side, side), axis=(1, 2)).sum(axis=(3, 4))
    apart = np.zeros(count)
    for number, square in enumerate(squares):
        first = np.unravel_index(square.argmax(), square.shape)
        square[tuple(slice(max(x - side + 1, 0), x + side) for x in first)] = -1
        apart[number] = np.hypot(*np.subtract(first, np.unravel_index(square.argmax(), square.shape)))
    return {
        "ink": images.sum(axis=(1, 2)),
        "share": (images > 0).mean(axis=(1, 2)),
        "spread": np.sqrt(spread[0] + spread[1]),
        "apart": apart,
    }
