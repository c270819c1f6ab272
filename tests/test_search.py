import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignvis.errors import AlignvisError
from alignvis.retrieval import ranks, similarity
from alignvis.searching import nearest as search
from alignvis.searching.best import Best
from alignvis.searching.nearest import Shard, Workers, exact, nearest, prepare_queries, scan


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow(queries, gallery, k, sides="both", centre=True):
    """The whole matrix in float64, rounded once, and a full stable sort."""
    full = similarity(queries.double(), gallery.double(), sides, centre).float().numpy() + 0
    order = np.argsort(-full, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(full, order, axis=1), order, full


def same(found, expected):
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0], expected[0])


@pytest.fixture
def small(monkeypatch):
    """Chunks and blocks so small that every border is crossed."""
    for name, value in (("ROWS", 16), ("QUERIES", 7), ("PAIRS", 5)):
        monkeypatch.setattr(search, name, value)


@pytest.mark.parametrize("sides", ["both", "image", "none"])
@pytest.mark.parametrize("centre", [True, False])
def test_it_is_the_sorted_full_matrix(small, sides, centre):
    queries, gallery = random(20, 24), 3 * random(333, 24, seed=1) + random(333, 1, seed=2)
    gallery[50:60] *= 1e-3
    gallery[100], gallery[101], gallery[300] = gallery[200], 0, 5  # a duplicate, a zero and a constant vector
    parts = [gallery[:99].numpy(), gallery[:0].numpy(), gallery[99:100].numpy(), gallery[100:].numpy()]
    for k in (1, 10, 332, 333):
        same(nearest(queries, parts, k, sides, centre), slow(queries, gallery, k, sides, centre))
    scores, rows = nearest(queries, parts, 10, sides, centre)
    single = similarity(queries, gallery, sides, centre)  # float32, as `eval` computes it
    np.testing.assert_allclose(scores, single.gather(1, torch.from_numpy(rows)), rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_ties_are_broken_by_the_gallerys_order_however_it_is_cut(data):
    """Few different vectors, so that most similarities are equal to others."""
    rows, dim = data.draw(st.integers(1, 60)), data.draw(st.integers(2, 9))
    kinds = np.array(
        data.draw(st.lists(st.lists(st.integers(-2, 2), min_size=dim, max_size=dim), min_size=1, max_size=4))
    )
    gallery = torch.from_numpy(kinds[[data.draw(st.integers(0, len(kinds) - 1)) for _ in range(rows)]]).float()
    queries = torch.from_numpy(kinds).float() + 0.5 * torch.arange(dim)
    k, cut = data.draw(st.integers(1, 12)), data.draw(st.integers(0, rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "ROWS", data.draw(st.integers(1, 20)))
        found = nearest(queries, [gallery[:cut].numpy(), gallery[cut:].numpy()], k)
    scores, order, _ = slow(queries, gallery, k)
    np.testing.assert_allclose(found[0], scores, atol=1e-7)
    whole = nearest(queries, [gallery.numpy()], rows)
    same(found, (whole[0][:, :k], whole[1][:, :k]))
    for row, score in zip(whole[1], whole[0], strict=True):
        by_row = dict(zip(row.tolist(), score.tolist(), strict=True))
        assert sorted(by_row) == list(range(rows))
        assert row.tolist() == sorted(by_row, key=lambda one: (-by_row[one], one))
        for one in range(rows):  # equal vectors are equally similar, to the bit
            twins = (gallery == gallery[one]).all(dim=1).nonzero()[:, 0].tolist()
            assert len({by_row[twin] for twin in twins}) == 1


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_leave_the_result_and_torchs_setting_alone(threads):
    queries, gallery = random(9, 40), random(30_000, 40, seed=1).numpy()
    expected = nearest(queries, [gallery], 25)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        same(nearest(queries, [gallery], 25), expected)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("offset", [0, 30, 1e4, 1e6])
@pytest.mark.parametrize("scale", [1e-18, 1, 1e15])
def test_vectors_of_any_size_on_a_large_mean(small, offset, scale):
    """A product in float32 loses such vectors; what it cannot tell must be compared again."""
    queries, gallery = random(6, 32), scale * (random(200, 32, seed=1) + offset)
    gallery[77] = 0
    same(nearest(queries, [gallery.numpy()], 9), slow(queries, gallery, 9))


def test_squares_that_overflow_or_vanish():
    queries, gallery = random(5, 16), random(60, 16, seed=1)
    gallery[:20] *= 1e36
    gallery[20:40] *= 1e-30
    with np.errstate(over="ignore"):
        same(nearest(queries, [gallery.numpy()], 60), slow(queries, gallery, 60))


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("sides", ["both", "none"])
def test_nearly_equal_vectors_are_told_apart(sides, centre):
    """Differences far below what a float32 product resolves."""
    queries = random(3, 512)
    base = random(1, 512, seed=1).double()
    gallery = (base + 2e-6 * random(4000, 512, seed=2).double()).float()
    for k in (1, 30):
        same(nearest(queries, [gallery.numpy()], k, sides, centre), slow(queries, gallery, k, sides, centre))


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("sides", ["both", "none"])
def test_a_projector_maps_the_gallery_first(small, centre, sides):
    queries, gallery = random(8, 5), random(150, 24, seed=1)
    layer = torch.nn.Linear(24, 5)
    layer.weight.data.copy_(random(5, 24, seed=2)), layer.bias.data.copy_(random(5, seed=3))
    gallery[40] = gallery[90]
    found = nearest(queries, [gallery.numpy()], 12, sides, centre, (layer.weight, layer.bias))
    mapped = gallery.double() @ layer.weight.double().T + layer.bias.double()
    expected = slow(queries, mapped.detach(), 12, sides, centre)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)


def test_a_query_that_says_nothing_is_tied_with_all():
    queries = torch.stack([torch.zeros(8), torch.full((8,), 3.0), random(8)])
    scores, rows = nearest(queries, [random(50, 8, seed=1).numpy()], 4)
    assert rows[:2].tolist() == [[0, 1, 2, 3]] * 2 and not scores[:2].any() and scores[2].all()


def test_small_galleries():
    queries = random(3, 8)
    one = nearest(queries, [random(1, 8, seed=1).numpy()], 5)
    assert one[0].shape == one[1].shape == (3, 1) and not one[1].any()
    none = nearest(queries, [np.empty((0, 8), "f4")], 5)
    assert none[0].shape == (3, 0)
    with pytest.raises(AlignvisError, match="ask for 1 or more"):
        nearest(queries, [random(4, 8).numpy()], 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_name(value):
    gallery = random(5000, 8, seed=1).numpy()
    gallery[4321, 3] = value
    with pytest.raises(AlignvisError, match="shard 1: the vector of row 4321 is not finite"):
        nearest(random(3, 8), [gallery[:10] * 0, gallery], 5)
    named = Shard(Path("web.safetensors"), *gallery.shape, array=gallery, name="picture {}".format)
    with pytest.raises(AlignvisError, match="web.safetensors: the vector of picture 4321"):
        nearest(random(3, 8), [named], 5)
    queries = random(3, 8)
    queries[1, 1] = value
    with pytest.raises(AlignvisError, match="query 1 is not finite"):
        nearest(queries, [gallery[:10]], 5)


def test_shapes_that_do_not_fit_are_sentences():
    with pytest.raises(AlignvisError, match="shard 1 has vectors of 7 numbers; 8 were expected"):
        nearest(random(3, 8), [random(4, 8).numpy(), random(4, 7).numpy()], 1)
    with pytest.raises(AlignvisError, match=r"shard 0 of the gallery has shape \(8,\)"):
        nearest(random(3, 8), [random(8).numpy()], 1)


def test_a_file_is_read_from_its_offset_and_a_cut_one_is_refused(tmp_path):
    gallery, path = random(700, 8, seed=1).numpy(), tmp_path / "vectors"
    path.write_bytes(b"12345" + gallery.tobytes())
    shard = Shard(path, 700, 8, offset=5)
    same(nearest(random(3, 8), [shard], 9), nearest(random(3, 8), [gallery], 9))
    path.write_bytes(b"12345" + gallery.tobytes()[:-1])
    with pytest.raises(AlignvisError, match="vectors ends before its row 699; it was cut"):
        nearest(random(3, 8), [shard], 9)


def searched(queries, gallery, k, parts, right=None, left_out=None, least=False):
    """Search parts apart, perhaps knowing what earlier ones found, and join them, the last first."""
    found, known = [], None
    with Workers() as workers:
        for start, stop in parts:
            best = Best(len(queries), k, right, known)
            shard = Shard(Path("x"), *gallery.shape, array=gallery)
            scan(prepare_queries(queries), shard, slice(start, stop), best, workers, left_out=left_out)
            found.append(best)
            if least:
                known = best.floor(slice(None))
    whole = Best(len(queries), k, right)
    for best in reversed(found):
        whole.join(best)
    return whole


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_parts_are_joined_to_what_the_whole_says_ties_and_ranks_too(data):
    rows = data.draw(st.integers(2, 50))
    kinds = random(data.draw(st.integers(1, 12)), 6, seed=data.draw(st.integers(0, 99)))
    gallery = kinds[[data.draw(st.integers(0, len(kinds) - 1)) for _ in range(rows)]]
    queries, targets = random(5, 6, seed=7), torch.tensor([data.draw(st.integers(0, rows - 1)) for _ in range(5)])
    left_out = np.array(sorted(set(range(rows)) - set(targets.tolist()) - {0, 1})[::3], np.int64)
    kept = np.setdiff1d(np.arange(rows), left_out)
    k = data.draw(st.integers(1, len(kept)))
    right = exact(prepare_queries(queries), gallery, np.arange(5), targets.numpy())
    middle = data.draw(st.integers(0, rows))
    whole = searched(
        queries, gallery.numpy(), k, [(0, middle), (middle, rows)], right, left_out, data.draw(st.booleans())
    )
    # the twin: one float32 value a pair of vectors, so equal vectors tie exactly
    asked = prepare_queries(queries)
    pairs = np.indices((5, len(kept))).reshape(2, -1)
    full = exact(asked, gallery, pairs[0], kept[pairs[1]]).reshape(5, -1)
    order = np.argsort(-full, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(whole.rows, kept[order])
    last = np.take_along_axis(full, order, axis=1)[:, -1:]
    np.testing.assert_array_equal(whole.tied, (full == last).sum(1) - (whole.scores == last).sum(1))
    places = ranks(torch.from_numpy(full), torch.from_numpy(np.searchsorted(kept, targets.numpy())))
    np.testing.assert_array_equal(whole.above + whole.equal, places.numpy())
    np.testing.assert_array_equal(whole.equal, (full == right[:, None]).sum(1))


def test_ranks_are_those_of_the_full_matrix_in_a_large_gallery():
    queries, gallery = random(30, 48), random(20_000, 48, seed=1)
    gallery[:30] += 0.4 * queries
    right = exact(prepare_queries(queries), gallery, np.arange(30), np.arange(30))
    whole = searched(queries, gallery.numpy(), 5, [(0, 9000), (9000, 20_000)], right)
    full = torch.from_numpy(slow(queries, gallery, 1)[2])
    np.testing.assert_array_equal(whole.above + whole.equal, ranks(full, torch.arange(30)).numpy())
    missing = np.where(np.arange(30) % 2, np.inf, right).astype("f4")
    half = searched(queries, gallery.numpy(), 5, [(0, 20_000)], missing)
    assert not half.above[1::2].any() and not half.equal[1::2].any()
    np.testing.assert_array_equal(half.above[::2], whole.above[::2])


def test_memory_stays_flat_and_no_page_is_mapped(tmp_path):
    """A gallery of 512 MB, a hole in a file: what the search takes, mapped pages included, is far less."""
    code = f"""
import resource, sys
from pathlib import Path
import numpy as np, torch
from alignvis.searching.nearest import Shard, nearest
path = Path({str(tmp_path / "hole")!r})
with open(path, "wb") as file:
    file.truncate(2**29)
queries = torch.randn(20, 4096)
nearest(queries, [np.ones((9, 4096), "f4")], 3)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
nearest(queries, [np.random.default_rng(0).standard_normal((50, 4096), "f4"), Shard(path, 2**15, 4096)], 3)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100  # MB


def test_what_a_part_left_out_counts_only_if_it_is_as_similar_as_the_last_of_all():
    def part(*rows_and_scores):
        best = Best(1, 2)
        rows, scores = zip(*rows_and_scores, strict=True)
        best.offer(np.zeros(len(rows), np.int64), np.array(rows), np.array(scores, "f4"))
        return best

    high, low = part((5, 0.9), (1, 0.9), (7, 0.9)), part((2, 0.5), (3, 0.5), (0, 0.5), (4, 0.5))
    same_ = part((6, 0.9), (8, 0.95))
    assert (high.tied, low.tied, same_.tied) == ([1], [2], [0])
    for order in ([high, low], [low, high]):
        whole = Best(1, 2)
        for one in order:
            whole.join(one)
        assert whole.rows.tolist() == [[1, 5]] and whole.tied == [1]
    for order in ([high, low, same_], [same_, low, high], [low, same_, high]):
        whole = Best(1, 2)
        for one in order:
            whole.join(one)
        assert whole.rows.tolist() == [[8, 1]] and whole.tied == [3]
    few = part((9, 0.1))
    assert few.tied == [0]
    few.join(part((3, 0.1)))
    assert few.rows.tolist() == [[3, 9]] and few.tied == [0]


@pytest.mark.parametrize("sides", ["both", "image", "none"])
def test_similarities_that_are_the_smallest_numbers_tie_as_they_are_rounded(small, sides):
    """Of short queries and vectors, similarities differ by less than one step of float32, and become equal."""
    queries, gallery = 1e-36 * random(6, 12), random(150, 12, seed=1) * torch.logspace(-9, -8, 150)[:, None]
    asked = prepare_queries(queries, sides)
    full = exact(asked, gallery, *np.indices((6, 150)).reshape(2, -1)).reshape(6, 150)
    if sides == "none":
        assert len(np.unique(full)) < 100
    order = np.argsort(-full, axis=1, kind="stable")[:, :20]
    same(nearest(queries, [gallery.numpy()], 20, sides), (np.take_along_axis(full, order, axis=1), order))
    right = full[:, 9].copy()
    best = Best(6, 20, right)
    with Workers() as workers:
        scan(asked, Shard(Path("x"), *gallery.shape, array=gallery.numpy()), slice(0, 150), best, workers)
    np.testing.assert_array_equal(best.above, (full > right[:, None]).sum(1))
    np.testing.assert_array_equal(best.equal, (full == right[:, None]).sum(1))
    np.testing.assert_array_equal(
        best.tied,
        (full == full[np.arange(6), order[:, -1]][:, None]).sum(1) - (best.scores == best.scores[:, -1:]).sum(1),
    )


def test_a_zero_has_no_sign():
    """Not even one that a negative product was rounded to: lists are compared and kept to the byte."""
    scores, _ = nearest(torch.full((1, 4), 1e-30), [np.full((3, 4), -1e-30, "f4")], 3, "none", centre=False)
    assert not scores.any() and not np.signbit(scores).any()


def test_chunks_hold_so_many_values_of_whatever_width_and_one_row_at_least(monkeypatch):
    real, seen = Shard.read, []

    def spy(shard, file, start, into):
        seen.append(into.shape)
        real(shard, file, start, into)

    monkeypatch.setattr(Shard, "read", spy)
    queries, gallery = random(2, 8), random(40, 8, seed=1).numpy()
    expected = nearest(queries, [gallery], 3)
    assert seen == [(40, 8)]
    for values, sizes in ((130, {(16, 8), (8, 8)}), (4, {(1, 8)})):
        seen.clear()
        monkeypatch.setattr(search, "CHUNK", values)
        same(nearest(queries, [gallery], 3), expected)
        assert set(seen) == sizes


def test_progress_counts_the_rows_of_all_shards(small):
    seen: list[tuple] = []
    gallery = random(50, 8, seed=1).numpy()
    nearest(random(2, 8), [gallery[:20], gallery[20:]], 3, progress=lambda *told: seen.append(told))
    assert seen == [(done, 50, "searching the gallery") for done in (16, 20, 36, 50)]
