import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignvis.errors import AlignvisError
from alignvis.pairs import Pairs, concept, split
from tests.tables import image_ids


def test_batches_visit_every_image_at_most_once_in_a_fresh_order():
    data = Pairs.of(torch.arange(10).float()[:, None], torch.arange(10).float()[:, None] + 100)
    generator = torch.Generator().manual_seed(0)
    epochs = [list(data.batches(3, [generator])) for _ in range(2)]
    for epoch in epochs:
        seen = torch.cat([responses for responses, _ in epoch], dim=1)
        assert [len(responses[0]) for responses, _ in epoch] == [3, 3, 3] and len(seen.unique()) == 9
        assert all(torch.equal(features, responses + 100) for responses, features in epoch)
    assert not torch.equal(epochs[0][0][0], epochs[1][0][0])
    again = next(iter(data.batches(3, [torch.Generator().manual_seed(0)])))
    assert torch.equal(again[0], epochs[0][0][0])


@settings(max_examples=50, deadline=None)
@given(
    st.integers(20, 40),
    st.integers(2, 5),
    st.sampled_from(["image", "concept"]),
    st.floats(0.1, 0.5),
    st.integers(0, 99),
)
def test_a_split_is_a_partition_that_keeps_units_whole(concepts, each, unit, share, seed):
    images = image_ids(concepts, each)
    fitted, held_out = split(images, unit, share, seed)
    assert sorted([*fitted.tolist(), *held_out.tolist()]) == list(range(len(images)))
    units = concepts if unit == "concept" else len(images)
    expected = max(1, int(share * units)) * (each if unit == "concept" else 1)
    assert len(held_out) == expected
    if unit == "concept":
        assert not {concept(images[row]) for row in fitted} & {concept(images[row]) for row in held_out}


def test_a_split_depends_on_the_ids_and_not_on_their_order():
    images = image_ids(10, 4)
    other = images[::-1]
    for unit in ("image", "concept"):
        chosen = [[ids[row] for row in split(ids, unit, 0.2, 3)[1]] for ids in (images, other)]
        assert chosen[0] == chosen[1]
        assert set(chosen[0]) != {images[row] for row in split(images, unit, 0.2, 4)[1]}


def test_too_few_images_to_split_are_refused_with_the_numbers():
    with pytest.raises(AlignvisError, match="5 training images in 5 images are too few: .* leaves 4 to train on and 1"):
        split(image_ids(1, 5), "image", 0.1, 0)
    with pytest.raises(AlignvisError, match="leaves 0 to train on"):
        split(image_ids(1, 5), "concept", 0.1, 0)
