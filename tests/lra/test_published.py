"""The published numbers: what can be computed from each other agrees, but where a doubt is noted."""

import statistics

import pytest

from xfref.lra import published
from xfref.lra.encoder import TASKS

MODELS = list(published.ACCURACY)


@pytest.mark.parametrize("model", MODELS)
def test_averages_are_those_of_the_five_tasks(model):
    *tasks, pathx, average = published.ACCURACY[model]
    assert pathx != pathx
    right = average == pytest.approx(statistics.fmean(tasks), abs=0.006)
    assert right != published.doubtful(1, model, "average")
    assert average == pytest.approx(statistics.fmean(tasks), abs=0.1)  # nor is the one in doubt far off


def test_the_last_row_of_table_1():
    """Printed as 29 (9.7), 61 (4.6), 55 (2.6), 41 (1.8), 72 (3.7) and 52 (2.4): mean, sample deviation."""
    printed = [(29, 9.7), (61, 4.6), (55, 2.6), (41, 1.8), (72, 3.7), (52, 2.4)]
    columns = list(zip(*published.ACCURACY.values(), strict=True))
    del columns[list(TASKS).index("pathx")]
    for (mean, deviation), column in zip(printed, columns, strict=True):
        assert statistics.fmean(column) == pytest.approx(mean, abs=0.75)
        assert statistics.stdev(column) == pytest.approx(deviation, abs=0.06)


def test_the_factors_of_table_2():
    """Printed beside the steps: how many times those of the Transformer, at 1000 to 4000."""
    printed = {"Local Attention": (1.1, 1.7, 3.2, 5.3), "Linformer": (1.2, 1.9, 3.7, 5.5),
               "Reformer": (0.5, 0.4, 0.7, 0.8), "Sinkhorn Transformer": (1.1, 1.6, 2.9, 3.8),
               "Synthesizer": (1.1, 1.2, 2.9, 1.4), "BigBird": (0.9, 0.8, 1.2, 1.1),
               "Linear Transformer": (1.1, 1.9, 3.7, 5.6), "Performer": (1.2, 1.9, 3.8, 5.7)}
    plain = published.EFFICIENCY["Transformer"].steps
    for model, factors in printed.items():
        found = [x / y for x, y in zip(published.EFFICIENCY[model].steps, plain, strict=True)]
        assert found == pytest.approx(factors, abs=0.06), model


@pytest.mark.parametrize("model", published.EFFICIENCY)
def test_a_number_far_from_its_neighbours_is_in_doubt(model):
    """More than 1.3 times their geometric mean: the next that are not in doubt stay under 1.25."""
    steps, gigabytes = published.EFFICIENCY[model]
    for name, row in (("steps", steps), ("gigabytes", gigabytes)):
        for before, here, after, length in zip(row, row[1:], row[2:], published.LENGTHS[1:], strict=False):
            factor = here / (before * after) ** 0.5
            assert (factor > 1.3) == published.doubtful(2, model, f"{name} at {length}")
            assert factor > 1.3 or factor < 1.25


def test_the_memory_of_exact_attention_is_that_of_one_sequence():
    for length, found in zip(published.LENGTHS, published.EFFICIENCY["Transformer"].gigabytes, strict=True):
        assert found == pytest.approx(0.28 + 6 * 8 * 3 * 4 * length**2 / 1e9, rel=0.03)


@pytest.mark.parametrize("model", published.EFFICIENCY)
def test_memory_grows_as_the_attention_does(model):
    """With the square of the length where all weights are made, else with it: within 10 %."""
    power = 2 if model in ("Transformer", "Synthesizer") else 1
    first, *between, last = published.EFFICIENCY[model].gigabytes
    for length, found in zip(published.LENGTHS[1:], between, strict=False):
        share = ((length / 1000) ** power - 1) / (4**power - 1)
        right = found == pytest.approx(first + share * (last - first), rel=0.1)
        assert right != published.doubtful(2, model, f"gigabytes at {length}")


def test_spans_are_of_whole_sequences_and_read_off_to_fifty():
    for task, (span, length) in published.SPANS.items():
        assert length == TASKS[task][1] and span % 50 == 0
        assert 0 < span < length


def test_tables_agree():
    for model, (test, training) in published.IMAGE_TEST_AND_TRAINING.items():
        assert test == published.ACCURACY[model].image < training
    assert list(published.IMAGE_TEST_AND_TRAINING) == MODELS
    assert set(published.FIGURE_3) == set(published.EFFICIENCY) < set(MODELS)
    assert published.FIGURE_3["Performer"] == (256, 51.41, 1.06)
    assert published.Accuracy._fields == (*TASKS, "average")
    for table, model, column in published.DOUBTS:
        assert model in MODELS and table in (1, 2) and column
