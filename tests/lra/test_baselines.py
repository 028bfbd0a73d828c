"""Baselines worked by hand, and on examples whose best guess is known."""

from itertools import islice

import numpy as np
import pytest

from xfaccel.lra import pathfinder as fast
from xfref.lra import baselines, pathfinder, text


def test_histogram_by_hand():
    """Under label 0 the ids 1 and 2 have weights 5 and 3 of 8, under label 1 they have 2 and 4 of 6."""
    fit_ids, fit_labels = np.array([[1, 1, 2], [1, 1, 2], [1, 2, 0], [2, 2, 0]]), np.array([0, 0, 1, 1])
    # 1 1 2: 75 / 512 against 16 / 216; 1 2: 15 / 64 against 8 / 36; 2: 3 / 8 against 4 / 6
    ids = np.array([[1, 1, 2, 0], [1, 2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]])
    for labels, right in [([0, 0, 1, 0], 4), ([1, 1, 0, 1], 0), ([0, 1, 1, 0], 3)]:
        assert baselines.histogram_accuracy(fit_ids, fit_labels, ids, np.array(labels)) == right / 4
    # three fitted examples of label 1 for one of label 0 outweigh 15 / 64 against 8 / 36
    fit_ids, fit_labels = fit_ids[[0, 2, 3, 2, 3]], np.array([0, 1, 1, 1, 1])
    assert baselines.histogram_accuracy(fit_ids, fit_labels, ids[1:2], np.array([1])) == 1


def test_histogram_knows_labels_and_ids_that_were_not_fitted():
    fit_ids, fit_labels = np.array([[1, 1], [2, 2]]), np.array([0, 2])  # none of label 1
    ids = np.array([[1, 1, 5], [2, 2, 5]])
    assert baselines.histogram_accuracy(fit_ids, fit_labels, ids, np.array([0, 2])) == 1


def test_histogram_tells_languages_apart():
    """English against the same letters in alphabetical order backwards: other bytes, the same lengths."""
    english = list(islice(text.byte_windows(text.standard_text(), 200), 200))
    swap = np.concatenate([np.arange(98), np.arange(98, 124)[::-1], np.arange(124, 257)])
    ids = np.stack([*english, *(swap[window] for window in english)])
    labels = np.repeat([0, 1], 200)
    fit = np.arange(400) % 2 == 0
    assert baselines.histogram_accuracy(ids[fit], labels[fit], ids[~fit], labels[~fit]) > 0.99
    assert baselines.majority_accuracy(labels[fit], labels[~fit]) == 0.5


def test_bits_per_byte_by_hand():
    # counts 3 + 1 and 1 of 259: -log2(4 / 259) twice and -log2(1 / 259) once
    found = baselines.bits_per_byte(np.array([[5, 5, 5, 0]]), np.array([5, 0, 5, 256]))
    assert found == pytest.approx((2 * np.log2(259 / 4) + np.log2(259)) / 3)
    ids = text.encode(bytes(range(256)) * 100, 25_600)
    assert baselines.bits_per_byte(ids, ids) == pytest.approx(8)


def test_jaccard_by_hand():
    assert baselines.jaccard(b"abcde", b"abcde") == 1
    assert baselines.jaccard(b"abcdeabcde", b"abcde") == 1 / 5  # abcde, bcdea, cdeab, deabc, eabcd
    assert baselines.jaccard(b"abcd", b"abcd") == 0
    assert baselines.jaccard(b"", b"abcde") == 0
    assert baselines.jaccard(b"abc", b"bcd", size=2) == 1 / 3
    assert baselines.jaccard(np.array([1, 2, 3]), np.array([2, 3, 4]), size=2) == 1 / 3


@pytest.mark.parametrize(
    ("fit_scores", "fit_labels", "scores", "guesses"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], [2.4, 2.6, -9, 9], [0, 1, 0, 1]),  # the middle of 2 and 3
        ([4, 1, 3, 2], [0, 1, 0, 1], [2.4, 2.6, -9, 9], [1, 0, 1, 0]),
        ([1, 2, 3], [1, 1, 1], [-9, 9], [1, 1]),
        ([1, 2, 3], [0, 0, 0], [-9, 9], [0, 0]),
        ([1, 1, 1, 2], [0, 1, 1, 0], [0, 1, 1.4, 1.6], [1, 1, 1, 0]),  # equal scores have one side
        ([5, 5, 5], [0, 1, 1], [4, 5, 6], [1, 1, 1]),
        ([1, 2, 3, 4, 5], [0, 1, 0, 1, 1], [1.4, 1.6], [0, 1]),  # four of five
        ([5, 5], [0, 1], [4, 6], [1, 1]),  # all guesses are as good: the first
    ],
)
def test_threshold_by_hand(fit_scores, fit_labels, scores, guesses):
    for flip in (0, 1):
        labels = np.array(guesses) ^ flip
        assert baselines.threshold_accuracy(fit_scores, fit_labels, scores, labels) == 1 - flip


def test_threshold_is_the_best_of_all():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(20, size=60), rng.integers(2, size=60)
    every = [np.mean((scores > cut) == (labels == sign)) for cut in np.arange(-1, 21) for sign in (0, 1)]
    assert baselines.threshold_accuracy(scores, labels, scores, labels) == max(every)


def test_ink_by_hand():
    images = np.zeros((2, 9, 12), np.uint8)
    images[0, 1, 1], images[0, 1, 9], images[0, 7, 1], images[0, 7, 9] = 100, 100, 60, 60
    found = baselines.ink_statistics(images, side=1)
    assert found["ink"].tolist() == [320, 0] and found["share"].tolist() == [4 / 108, 0]
    # columns 4 to each side of the middle; rows 6 apart with weights 5/8 and 3/8
    assert found["spread"] == pytest.approx([np.sqrt(16 + 36 * 15 / 64), 0])
    assert found["apart"][0] == 8
    images[0] = 0
    images[0, 1:4, 1:4] = images[0, 5:8, 6:9] = 200
    assert baselines.ink_statistics(images)["apart"][0] == np.hypot(4, 5)


def test_dots_of_pathfinder_are_found_and_say_nothing():
    """200 pictures of 24 pixels: the dots within two pixels for most; no statistic right for more than 0.64.

    A guess that knows nothing is right for 0.5 +- 0.05 of the 100 that are scored; four statistics are tried.
    """
    examples = list(islice(fast.generate(1, pathfinder.parameters(24)), 200))
    labels = np.array([example.label for example in examples])
    statistics = baselines.ink_statistics(np.stack([example.image for example in examples]))
    apart = [np.linalg.norm(example.markers[0] - example.markers[1]) for example in examples]
    assert np.mean(np.abs(statistics["apart"] - apart) < 2) > 0.8
    for scores in statistics.values():
        found = baselines.threshold_accuracy(scores[:100], labels[:100], scores[100:], labels[100:])
        assert found < 0.64


def test_first_token_by_hand():
    fit_ids, fit_labels = np.array([[1, 9], [1, 9], [1, 9], [2, 9], [2, 9]]), np.array([3, 3, 0, 5, 5])
    ids = np.array([[1, 2], [2, 1], [20, 1]])  # 20 was not fitted: 3, the first of the commonest, is guessed
    for labels, right in [([3, 5, 3], 3), ([0, 3, 5], 0), ([3, 0, 0], 1)]:
        found = baselines.first_token_accuracy(fit_ids, fit_labels, ids, np.array(labels))
        assert found == pytest.approx(right / 3)
    # tokens that are not among those to be scored
    assert baselines.first_token_accuracy(fit_ids, fit_labels, np.array([[1, 1]]), np.array([3])) == 1
    assert baselines.first_token_accuracy(fit_ids[:0], fit_labels[:0], ids, np.array([0, 0, 1])) == 2 / 3
    assert baselines.majority_accuracy(fit_labels[:0], np.array([0, 1])) == 0.5


def test_a_label_with_more_text_is_not_favoured():
    """Id 2 is half of label 0's sixteen ids and all of label 1's three: 9 / 18 against 4 / 5."""
    fit_ids = np.array([[1] * 8 + [2] * 8, [2] * 3 + [0] * 13])
    assert baselines.histogram_accuracy(fit_ids, np.array([0, 1]), np.array([[2]]), np.array([1])) == 1
