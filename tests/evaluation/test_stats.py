from __future__ import annotations

import numpy as np
import pytest

from audiovq.evaluation.protocol import Score, mean_of


def test_equal_weights_give_students_interval():
    values = [2.0, 4.0, 9.0, 1.0, 4.5]
    mean = mean_of([Score(value) for value in values])
    # Student's t for 4 degrees of freedom at 97.5 %, from a printed table.
    assert mean.mean == pytest.approx(np.mean(values))
    assert mean.ci95 == pytest.approx(2.776 * np.std(values, ddof=1) / np.sqrt(5), rel=1e-3)
    assert mean.n == 5


def test_the_interval_holds_the_truth_95_times_in_100():
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        mean = mean_of([Score(value) for value in draw.normal(3.0, 1.0, 8)])
        hits += abs(mean.mean - 3.0) <= mean.ci95
    assert 930 <= hits <= 970


def test_weights_pool_errors_over_words():
    # 1 error in 2 words and 1 in 8: 2 in 10, not the mean of 50 % and 12.5 %.
    mean = mean_of([Score(50.0, 2), Score(12.5, 8)])
    assert mean.mean == pytest.approx(20.0)


def test_weights_of_any_scale_are_the_same():
    scores = [(1.0, 1), (5.0, 2), (2.0, 4)]
    one = mean_of([Score(value, weight) for value, weight in scores])
    other = mean_of([Score(value, 10 * weight) for value, weight in scores])
    assert (one.mean, one.ci95) == pytest.approx((other.mean, other.ci95))


def test_one_score_has_no_interval_and_none_no_mean():
    assert mean_of([Score(3.0)]).ci95 is None
    assert mean_of([]) is None
    assert mean_of([Score(3.0, 0.0)]) is None
