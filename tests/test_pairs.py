import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignvis import pairs, store
from alignvis.errors import AlignvisError
from alignvis.pairs import Pairs, average, concept, split, unit_repetitions
from tests.tables import CHANNELS, image_ids, write_responses

IDS = image_ids(20, 10), image_ids(3, 1, "test_images")


def table(tmp_path, train: np.ndarray | None = None, repetitions: int = 2):
    rng = np.random.default_rng(0)
    train = rng.standard_normal((200, repetitions, 3, 6)) if train is None else train
    return store.load_responses(write_responses(tmp_path / "r", train, rng.standard_normal((3, 4, 3, 6)), IDS))


def test_repetitions_are_normalised_as_published():
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 50)).astype("f4") + 2
    ours = unit_repetitions(x)
    for one, wanted in zip(ours.reshape(-1, 50), x.reshape(-1, 50), strict=True):
        np.testing.assert_allclose(one, (wanted - wanted.mean()) / np.sqrt((wanted**2).sum()), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(unit_repetitions(1000 * x), ours, rtol=1e-4, atol=1e-6)
    assert not unit_repetitions(np.zeros((1, 1, 1, 5), "f4")).any()


@pytest.mark.parametrize("repetitions", [1, 2, 5])
def test_the_mean_is_over_repetitions_and_over_nothing_else(tmp_path, repetitions, monkeypatch):
    monkeypatch.setattr(pairs, "CHUNK", 64)  # not a divisor of 200
    responses = table(tmp_path, repetitions=repetitions)
    plain = average(responses, "train", "none", lambda x: x)
    np.testing.assert_allclose(plain.numpy(), np.asarray(responses.train).mean(axis=1), rtol=1e-5, atol=1e-6)
    first = average(responses, "train", "repetition", lambda x: x)
    np.testing.assert_allclose(
        first.numpy(), unit_repetitions(np.asarray(responses.train)).mean(axis=1), rtol=1e-5, atol=1e-6
    )
    assert average(responses, "test", "none", lambda x: x.flatten(1)).shape == (3, 18)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named(tmp_path, value):
    train = np.ones((200, 2, 3, 6))
    train[130, 1, 2, 4] = value
    with pytest.raises(
        AlignvisError, match=f"train response to '{IDS[0][130]}' is not finite in channel {CHANNELS[2]}"
    ):
        average(table(tmp_path, train), "train", "none", lambda x: x)


def test_a_dead_channel_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "CHUNK", 64)
    train = np.random.default_rng(0).standard_normal((200, 2, 3, 6))
    train[:, :, 1] = 0
    train[64:, :, 0] = 0  # flat in some trials only, which is no dead channel
    with pytest.raises(AlignvisError, match="channel Oz is zero in every train response"):
        average(table(tmp_path, train), "train", "repetition", lambda x: x)


def test_one_time_cannot_be_normalised_over_time(tmp_path):
    with pytest.raises(AlignvisError, match="one time a response"):
        average(table(tmp_path, np.ones((200, 2, 3, 1))), "train", "repetition", lambda x: x)


def test_batches_visit_every_image_at_most_once_in_a_fresh_order():
    data = Pairs(torch.arange(10).float(), torch.arange(10).float() + 100)
    generator = torch.Generator().manual_seed(0)
    epochs = [list(data.batches(3, generator)) for _ in range(2)]
    for epoch in epochs:
        seen = torch.cat([batch.responses for batch in epoch])
        assert [len(batch) for batch in epoch] == [3, 3, 3] and len(seen.unique()) == 9
        assert all(torch.equal(batch.features, batch.responses + 100) for batch in epoch)
    assert not torch.equal(epochs[0][0].responses, epochs[1][0].responses)
    again = next(iter(data.batches(3, torch.Generator().manual_seed(0))))
    assert torch.equal(again.responses, epochs[0][0].responses)


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
