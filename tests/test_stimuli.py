import numpy as np

from alignvis.progress import silent
from alignvis.recordings.stimuli import make_pictures, write_pictures


def pictures(concepts, test, seed=0):
    return make_pictures(concepts, test, np.random.default_rng(seed))


def test_pictures_of_a_concept_are_alike_and_test_concepts_are_new():
    made = pictures(400, 300)
    train = made.latent["train"].reshape(400, 10, -1)
    within, between = train.var(axis=1, ddof=1).mean(), train.mean(axis=1).var(axis=0).mean()
    assert abs(within - 0.49 / 1.49) < 0.02 and abs(between - (1 + 0.049) / 1.49) < 0.05
    assert abs(made.latent["test"].var() - 1) < 0.1
    shown = np.concatenate([train[:, 0], made.latent["test"]])
    alike = np.corrcoef(shown)
    assert np.abs(alike[400:, :400]).mean() < 0.25  # 18 factors by chance: 0.19
    assert np.corrcoef(train[:, 0].ravel(), train[:, 1].ravel())[0, 1] > 0.6


def test_every_concept_has_a_word_of_its_own():
    made = pictures(1654, 200)
    words = {name.split("_")[1] for part in ("train", "test") for name in made.concepts[part]}
    assert len(words) == 1854 and all(word.isalpha() and word.islower() for word in words)
    for part in ("train", "test"):
        assert all(a != b for a, b in zip(made.concepts[part], made.things[part], strict=True))


def test_grain_follows_the_seed_and_pictures_follow_their_factors(tmp_path):
    made = pictures(2, 2)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_pictures(tmp_path / name, made, seed, silent)
    for image in made.factors():
        a, b, c = ((tmp_path / name / image).read_bytes() for name in "abc")
        assert a == b and a != c
    assert len({(tmp_path / "a" / image).read_bytes() for image in made.factors()}) == 22
