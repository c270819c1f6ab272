import numpy as np
import pytest

from alignvis import averaging, store
from alignvis.averaging import average, unit_repetitions
from alignvis.errors import AlignvisError
from alignvis.recipe import Recipe
from tests.tables import CHANNELS, image_ids, write_responses

IDS = image_ids(20, 10), image_ids(3, 1, "test_images")
NONE, PUBLISHED = Recipe(normalisation="none"), Recipe()


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
    monkeypatch.setattr(averaging, "CHUNK", 64)  # not a divisor of 200
    responses = table(tmp_path, repetitions=repetitions)
    plain = average(responses, "train", NONE, lambda x: x)
    np.testing.assert_allclose(plain.numpy(), np.asarray(responses.train).mean(axis=1), rtol=1e-5, atol=1e-6)
    first = average(responses, "train", PUBLISHED, lambda x: x)
    np.testing.assert_allclose(
        first.numpy(), unit_repetitions(np.asarray(responses.train)).mean(axis=1), rtol=1e-5, atol=1e-6
    )
    assert average(responses, "test", NONE, lambda x: x.flatten(1)).shape == (3, 18)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named(tmp_path, value):
    train = np.ones((200, 2, 3, 6))
    train[130, 1, 2, 4] = value
    with pytest.raises(
        AlignvisError, match=f"train response to '{IDS[0][130]}' is not finite in channel {CHANNELS[2]}"
    ):
        average(table(tmp_path, train), "train", NONE, lambda x: x)


def test_a_dead_channel_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(averaging, "CHUNK", 64)
    train = np.random.default_rng(0).standard_normal((200, 2, 3, 6))
    train[:, :, 1] = 0
    train[64:, :, 0] = 0  # flat in some trials only, which is no dead channel
    with pytest.raises(AlignvisError, match="channel Oz is zero in every train response"):
        average(table(tmp_path, train), "train", PUBLISHED, lambda x: x)


def test_one_time_cannot_be_normalised_over_time(tmp_path):
    with pytest.raises(AlignvisError, match="one time a response"):
        average(table(tmp_path, np.ones((200, 2, 3, 1))), "train", PUBLISHED, lambda x: x)
