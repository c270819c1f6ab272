import numpy as np
import pytest

from alignvis.recordings.schedule import concept_halves, sequences
from alignvis.recordings.trials import TARGET


def test_full_size_gives_the_published_numbers():
    generator = np.random.default_rng(0)
    train = concept_halves(1654, generator)
    assert [len(codes) for codes in train] == [8270] * 4
    for pair in (train[:2], train[2:]):
        assert sorted(np.concatenate(pair)) == list(range(1, 16541))
    assert 3500 < len(set(train[0]) & set(train[2])) < 4800
    order = sequences(train[0], 2, 2, generator)
    assert order.shape == (840, 20)
    codes, counts = np.unique(order[order != TARGET], return_counts=True)
    assert (codes == train[0]).all() and counts.min() == 2 and counts.max() in (3, 4)
    assert abs((order == TARGET).sum() - 90) < 10
    order = sequences(np.arange(1, 201), 20, 1, generator)
    assert order.shape == (204, 20)
    _, counts = np.unique(order[order != TARGET], return_counts=True)
    assert len(counts) == 200 and counts.min() == 20 and counts.max() == 21
    assert abs((order == TARGET).sum() - 24) < 5


@pytest.mark.parametrize("pictures", [1, 2, 3, 10, 30, 77])
@pytest.mark.parametrize("repetitions", [1, 2, 5])
def test_every_picture_is_shown_often_enough(pictures, repetitions):
    for seed in range(5):
        order = sequences(np.arange(1, pictures + 1), repetitions, 1, np.random.default_rng(seed))
        codes, counts = np.unique(order[order != TARGET], return_counts=True)
        assert len(codes) == pictures and counts.min() >= repetitions and np.ptp(counts) <= 1
        assert (order == TARGET).any() and not (order[:, 0] == TARGET).any() and (order > 0).all()
        assert (order == TARGET).sum(axis=1).max() == 1
