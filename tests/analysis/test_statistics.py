"""The arithmetic behind every verdict, checked against scipy and by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from resattn.analysis.statistics import gain_text, holm, mean_interval, p_value, paired_difference, signed, verdict

NAN = float("nan")


def test_interval_is_students():
    values = [1.0, 2.0, 4.0, 9.0]
    mean, half = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_interval_of_one_value_is_unknown_and_of_none_an_error():
    assert np.isnan(mean_interval([3.0])[1])
    with pytest.raises(ValueError, match="values must not be empty"):
        mean_interval([])


def test_pairs_need_both_runs_and_one_a_seed():
    one, other = pd.Series([5.0, 7.0, 9.0], index=[0, 1, 4]), pd.Series([4.0, 4.0], index=[1, 0])
    seeds, mean, _ = paired_difference(one, other)
    assert (seeds, mean) == (2, 2.0)
    assert paired_difference(one, other[:0])[0] == 0
    with pytest.raises(ValueError, match="must hold one run a seed"):
        paired_difference(one, pd.Series([1.0, 2.0], index=[0, 0]))


def test_p_is_that_of_the_paired_t_test():
    one, other = np.array([66.1, 67.9, 68.0, 65.2]), np.array([65.0, 66.1, 67.7, 64.4])
    seeds, mean, half = paired_difference(pd.Series(one), pd.Series(other))
    assert p_value(seeds, mean, half) == pytest.approx(stats.ttest_rel(one, other).pvalue)
    assert np.isnan(p_value(1, 2.0, NAN))
    assert (p_value(3, 2.0, 0.0), p_value(3, 0.0, 0.0)) == (0, 1)


def test_an_interval_that_touches_zero_has_p_of_5_percent():
    assert p_value(3, 1.3, 1.3) == pytest.approx(0.05)


def test_holms_correction_by_hand():
    """Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, never falling."""
    assert holm([0.04, 0.01, 0.03, 0.02]).tolist() == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]).tolist() == [1, 1]
    assert holm([]).size == 0


def test_a_comparison_without_p_does_not_count():
    adjusted = holm([0.03, NAN, 0.01])
    assert adjusted[[0, 2]].tolist() == pytest.approx([0.03, 0.02])
    assert np.isnan(adjusted[1])


def test_a_verdict_needs_significance_and_the_right_sign():
    assert verdict(2.0, 1.0, 0.01) == "supported"
    assert verdict(-2.0, 1.0, 0.01) == "contradicted"
    assert verdict(-2.0, 1.0, 0.01, better=-1) == "supported", "fewer epochs are better"
    assert verdict(2.0, 1.0, 0.05) == "undecided; beyond ±3.00 excluded"
    assert verdict(-2.0, NAN, NAN) == "undecided; one seed"


def test_equality_can_be_contradicted_but_not_supported():
    assert verdict(-0.67, 0.3, 0.01, better=0) == verdict(0.67, 0.3, 0.01, better=0) == "contradicted"
    assert verdict(0.01, 0.3, 0.99, better=0).startswith("undecided")


def test_size_is_another_question_than_direction():
    assert gain_text(3.7, 3.0, 1.0) == "+3.7, inside"
    assert gain_text(3.7, 1.3, 1.32) == "+3.7, above"
    assert gain_text(3.7, 6.0, 1.0) == "+3.7, below"
    assert gain_text(0.0, -0.67, 0.29) == "none, above"
    assert gain_text(3.7, 3.0, NAN) == "+3.7"
    assert gain_text(NAN, 3.0, 1.0) == ""


def test_an_excluded_size_does_not_contradict_the_direction():
    """+1.30 ± 1.32 excludes the paper's 3.7 and says nothing against a gain."""
    assert verdict(1.30, 1.32, p_value(3, 1.30, 1.32)) == "undecided; beyond ±2.62 excluded"


def test_a_wide_interval_is_no_null_result():
    assert verdict(-0.4, 9.8, 0.9) == "undecided; beyond ±10.20 excluded"


def test_signs_are_written_one_way():
    assert signed(1.3, 0.4) == "+1.30 ± 0.40"
    assert signed(-0.424) == "−0.42"
    assert signed(-0.001, NAN) == signed(0.001) == "0.00"
