"""Real fMRI through our own loop: what was seen, from single volumes, beside ridge regression on the same folds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.haxby import CHANCE, LINEAR, RECIPES, decode, summary, t_interval


@pytest.mark.parametrize("name", ["linear", "eegproject"])
def test_what_was_seen_is_read_from_single_volumes_of_real_fmri(shared_data, name):
    """With certainty above 0.45, three times chance, and no more than ten points in a hundred below ridge."""
    found = decode(shared_data, name, RECIPES[name])
    print(name, summary(found))
    assert t_interval(found.ours)[0] > 0.45
    assert np.mean(found.ours) > np.mean(found.ridge) - 0.10


def test_the_wide_network_reads_it_as_well(shared_data):
    """One run and one epoch, as it is 4096 wide: far above chance. `benchmarks/haxby.py` asks it about all runs."""
    found = decode(shared_data, "brain-mlp", replace(RECIPES["brain-mlp"], epochs=1), folds=1)
    print("brain-mlp", found)
    assert found.ours[0] > 3 * CHANCE


def test_shuffled_categories_cannot_be_read(shared_data):
    def shuffled(answers: torch.Tensor) -> torch.Tensor:
        return answers[torch.randperm(len(answers), generator=torch.Generator().manual_seed(0))]

    found = decode(shared_data, "linear", LINEAR, folds=4, taught=shuffled)
    low, high = t_interval(found.ours)
    print(f"shuffled: {low:.3f} to {high:.3f}")
    assert np.mean(found.ours) == pytest.approx(CHANCE, abs=0.09)
