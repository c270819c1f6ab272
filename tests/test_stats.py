import pytest
from scipy.stats import binom, binomtest

from alignvis.stats import wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 200), (1, 200), (37, 200), (100, 200), (200, 200), (1, 2)])
@pytest.mark.parametrize("level", [0.95, 0.9])
def test_wilson_is_scipys(hits, n, level):
    expected = binomtest(hits, n).proportion_ci(level, method="wilson")
    assert wilson(hits / n, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("truth", [0.005, 0.1, 0.5, 0.9])
def test_about_95_percent_of_intervals_hold_the_truth(truth):
    held = sum(
        binom.pmf(k, 200, truth) for k in range(201) if wilson(k / 200, 200)[0] <= truth <= wilson(k / 200, 200)[1]
    )
    assert 0.91 < held < 0.99
