"""Ridge from embeddings to responses: against a written-out ridge, by law, with known ceilings, and on nonsense."""

import numpy as np
import pytest
from scipy.stats import pearsonr

from alignvis.errors import AlignvisError
from alignvis.reliability import halves
from alignvis.representations import encoding
from alignvis.representations.study import ceilings_of

ALPHAS = (0.001, 0.01, 0.1, 1.0, 10.0)


def data(n: int, d: int, t: int = 6, seed: int = 0, noise: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * rng.uniform(0.1, 5, d) + 3
    y = x @ rng.standard_normal((d, t)) * rng.uniform(0, 1, t) + noise * rng.standard_normal((n, t)) + 100
    return x, y.astype(np.float32)


def groups(n: int, each: int = 4) -> list[str]:
    return [f"thing{place // each}" for place in range(n)]


@pytest.mark.parametrize(("n", "d"), [(60, 8), (40, 70), (52, 41)])
def test_it_is_the_ridge_written_out(n, d):
    """More images than features, fewer, and fewer only where a fold is held out."""
    x, y = data(n, d)
    folds = encoding.folds_of(groups(n))
    made = encoding.design(x, folds)
    model = encoding.fit(made, lambda rows: y[rows], ALPHAS, images=7)
    z, loss = (x - x.mean(axis=0)) / x.std(axis=0), np.zeros((5, 6))
    for fold in range(5):
        fit, held = folds != fold, folds == fold
        mx, my = z[fit].mean(axis=0), y[fit].mean(axis=0, dtype=np.float64)
        for place, alpha in enumerate(ALPHAS):
            gram = (z[fit] - mx).T @ (z[fit] - mx) + alpha * fit.sum() * np.eye(d)
            weights = np.linalg.solve(gram, (z[fit] - mx).T @ (y[fit] - my))
            loss[place] += ((y[held] - my - (z[held] - mx) @ weights) ** 2).sum(axis=0)
    assert np.array_equal(model.alphas, np.array(ALPHAS)[loss.argmin(axis=0)])
    assert len(set(model.alphas)) > 1  # each target has its own
    new = np.random.default_rng(1).standard_normal((9, d)) * 2
    centred = y - y.mean(axis=0, dtype=np.float64)
    weights = np.stack(
        [np.linalg.solve(z.T @ z + a * n * np.eye(d), z.T @ centred[:, i]) for i, a in enumerate(model.alphas)], axis=1
    )
    expected = (new - x.mean(axis=0)) / x.std(axis=0) @ weights + y.mean(axis=0, dtype=np.float64)
    assert np.allclose(encoding.predict(made, model, new), expected, atol=1e-3)
    null = sum(((y[folds == f] - y[folds != f].mean(axis=0, dtype=np.float64)) ** 2).sum(axis=0) for f in range(5))
    assert np.allclose(model.explained, 1 - loss.min(axis=0) / null, atol=1e-4)


def test_leaving_one_out_follows_the_law_of_leverage():
    """The error of an image left out is its residual over one minus its leverage, whatever the penalty."""
    n, d, alpha = 25, 6, 0.3
    x, y = data(n, d)
    made = encoding.design(x, np.arange(n))
    model = encoding.fit(made, lambda rows: y[rows], [alpha])
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    hat = z @ np.linalg.solve(z.T @ z + alpha * (n - 1) * np.eye(d), z.T) + 1 / n
    errors = (y - hat @ y.astype(np.float64)) / (1 - np.diagonal(hat))[:, None]
    null = ((y - y.mean(axis=0, dtype=np.float64)) * n / (n - 1)) ** 2
    assert np.allclose(model.explained, 1 - (errors**2).sum(axis=0) / null.sum(axis=0), atol=1e-4)


def test_a_concept_is_never_on_both_sides_and_folds_are_even():
    names = [f"c{place % 23}" for place in range(200)]
    folds = encoding.folds_of(names, 5)
    assert all(len({fold for fold, name in zip(folds, names, strict=True) if name == one}) == 1 for one in set(names))
    assert sorted(np.bincount(np.array([folds[names.index(f"c{i}")] for i in range(23)]))) == [4, 4, 5, 5, 5]
    assert not np.array_equal(folds, encoding.folds_of(names, 5, seed=1))
    with pytest.raises(AlignvisError, match="of 4 concepts, and choosing a penalty takes 5"):
        encoding.folds_of(list("abcd"))
    assert len(set(encoding.folds_of(list("abcde")))) == 5


def test_every_image_is_read_once_whatever_the_blocks():
    x, y = data(60, 8)
    made, seen = encoding.design(x, encoding.folds_of(groups(60))), []

    def read(rows: np.ndarray) -> np.ndarray:
        seen.extend(rows.tolist())
        assert len(rows) <= 5
        return y[rows]

    small = encoding.fit(made, read, ALPHAS, images=5)
    assert sorted(seen) == list(range(60))
    large = encoding.fit(made, lambda rows: y[rows], ALPHAS, images=100)
    assert np.allclose(small.weights, large.weights, atol=1e-5) and np.array_equal(small.alphas, large.alphas)


def test_the_unit_and_the_offset_of_responses_cancel():
    x, y = data(60, 8)
    made = encoding.design(x, encoding.folds_of(groups(60)))
    plain = encoding.fit(made, lambda rows: y[rows], ALPHAS)
    tesla = (y * 1e-13 + 1e-12).astype(np.float32)
    tiny = encoding.fit(made, lambda rows: tesla[rows], ALPHAS)
    assert np.array_equal(plain.alphas, tiny.alphas) and np.allclose(plain.explained, tiny.explained, atol=1e-3)


def test_a_feature_that_does_not_vary_weighs_nothing_and_none_that_varies_is_refused():
    x, y = data(60, 8)
    folds = encoding.folds_of(groups(60))
    wide = np.hstack([x, np.full((60, 1), 0.3)])
    made = encoding.design(wide, folds)
    model = encoding.fit(made, lambda rows: y[rows], ALPHAS)
    test = np.hstack([x[:5], np.full((5, 1), 7.0)])  # what differs at the test only was never learned
    narrow = encoding.design(x, folds)
    expected = encoding.predict(narrow, encoding.fit(narrow, lambda rows: y[rows], ALPHAS), x[:5])
    assert np.allclose(encoding.predict(made, model, test), expected, atol=1e-3)
    with pytest.raises(AlignvisError, match="are the same"):
        encoding.design(np.full((60, 3), 0.1), folds)


def test_a_target_that_does_not_vary_is_unknown_and_harms_no_other():
    x, y = data(60, 8)
    made = encoding.design(x, encoding.folds_of(groups(60)))
    flat = y.copy()
    flat[:, 2] = 5.5
    model = encoding.fit(made, lambda rows: flat[rows], ALPHAS)
    assert np.isnan(model.explained).tolist() == [False, False, True, False, False, False]
    found = encoding.correlate(encoding.predict(made, model, x), flat)
    assert np.isnan(found).tolist() == [False, False, True, False, False, False]


def test_correlations_are_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((20, 4)) + 50, rng.standard_normal((20, 4))
    assert np.allclose(encoding.correlate(a, b), [pearsonr(a[:, i], b[:, i])[0] for i in range(4)], atol=1e-5)


def test_drawn_correlations_are_those_of_the_images_drawn():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((20, 4)), rng.standard_normal((20, 4)) + 9
    found = encoding.drawn_correlations(a, b, 30, seed=4, block=11)
    counts = np.random.default_rng(4)
    for draws in (range(0, 11), range(11, 22), range(22, 30)):
        for draw, count in zip(draws, counts.multinomial(20, np.full(20, 1 / 20), len(draws)), strict=True):
            again = np.repeat(np.arange(20), count)
            assert np.allclose(found[draw], encoding.correlate(a[again], b[again]), atol=1e-4)


def test_shuffled_correlations_are_those_of_images_named_anew():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((20, 4)), rng.standard_normal((20, 4))
    found = encoding.shuffled_correlations(a, b, 10, seed=4)
    orders = np.random.default_rng(4)
    for row in found:
        assert np.allclose(row, encoding.correlate(a[orders.permutation(20)], b), atol=1e-5)


def study_of(shuffle: bool) -> np.ndarray:
    """Correlations over test images of planted responses, learned from the right embeddings or from others'."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 10))
    mixing = rng.standard_normal((10, 50))
    y = (x @ mixing + 2 * rng.standard_normal((300, 50))).astype(np.float32)
    learned = x[rng.permutation(200)] if shuffle else x[:200]
    made = encoding.design(learned, encoding.folds_of(groups(200)))
    model = encoding.fit(made, lambda rows: y[rows])
    return encoding.correlate(encoding.predict(made, model, x[200:]), y[200:])


def test_a_planted_response_is_predicted_and_a_shuffled_embedding_gives_nothing():
    assert study_of(shuffle=False).mean() > 0.7
    assert abs(study_of(shuffle=True).mean()) < 0.08  # fifty targets that share predictors


def test_a_planted_response_has_its_known_ceiling_and_reaches_it():
    """Signal of variance 1, noise of variance 4 a repetition, 8 repetitions: the ceiling is the root of 2/3."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1200, 5))
    mixing = rng.standard_normal((5, 40))
    mixing /= np.linalg.norm(mixing, axis=0)
    signal = x @ mixing
    single = signal[800:, None] + 2 * rng.standard_normal((400, 8, 40))
    made = encoding.design(x[:800], encoding.folds_of(groups(800)))
    train = (signal[:800] + rng.standard_normal((800, 40))).astype(np.float32)
    model = encoding.fit(made, lambda rows: train[rows])
    r = encoding.correlate(encoding.predict(made, model, x[800:]), single.mean(axis=1))
    cut = halves(400, 8, rng) / 4
    ceiling = ceilings_of(encoding.correlate(*np.einsum("hir,irt->hit", cut, single)), 8)
    assert abs(ceiling.mean() - np.sqrt(2 / 3)) < 0.01
    assert abs(r.mean() / ceiling.mean() - 1) < 0.02


def test_ceilings_by_hand():
    found = ceilings_of(np.array([[0.5, 0.0], [-0.2, np.nan]]), 8)
    assert np.allclose(found, [[np.sqrt(2 / 3), 0], [0, np.nan]], equal_nan=True)
    assert np.isclose(ceilings_of(np.array([0.5]), 5)[0], np.sqrt(2.5 * 0.5 / 1.75))  # halves of 2 of 5
    assert ceilings_of(np.array([-1.0, 1.0]), 2).tolist() == [0, 1]
