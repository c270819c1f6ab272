import threading
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignvis.errors import AlignvisError
from alignvis.pairs import AHEAD, MIXTURES, Pairs, concept, random_pairs, random_subset, split
from tests.tables import image_ids


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def told_apart(count: int = 12, mixed: str | None = None, repetitions: int = 4) -> Pairs:
    """Two runs of three subjects each, and of images and embeddings of their own; each value says whose it is.

    A response is (table, image) or, if they are mixed, (table, image, one-hot of the repetition); an embedding is
    (its table, image).
    """
    tables, images = 5, 20
    responses = torch.cartesian_prod(torch.arange(tables), torch.arange(images)).float().view(tables, images, 2)
    if mixed:
        which = torch.eye(repetitions).expand(tables, images, -1, -1)
        responses = torch.cat([responses[:, :, None].expand(-1, -1, repetitions, -1), which], dim=-1)
    features = torch.cartesian_prod(torch.arange(3), torch.arange(images)).float().view(3, images, 2)
    rows = torch.stack([torch.arange(images)[:count], torch.arange(images).flip(0)[:count]])
    return Pairs(
        responses, features, torch.tensor([[0, 1, 2], [4, 2, 3]]), torch.tensor([2, 0]), rows, mixed=mixed
    )  # fmt: skip


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


def test_a_lap_shows_every_image_once_and_an_epoch_every_image_of_every_subject():
    pairs = told_apart()
    batches = list(pairs.batches(4, generators(0, 1)))
    assert len(batches) == 9 and all(responses.shape == (2, 4, 2) for responses, _ in batches)
    for run in range(2):
        who = [tuple(pair) for responses, _ in batches for pair in responses[run].tolist()]
        for lap in range(3):
            here = who[12 * lap : 12 * lap + 12]
            assert sorted(image for _, image in here) == sorted(pairs.rows[run].tolist())
            assert len({table for table, _ in here}) > 1  # a lap is not one subject after the other
        images, tables = pairs.rows[run].tolist(), pairs.brains[run].tolist()
        assert sorted(who) == sorted((table, image) for table in tables for image in images)


def test_every_run_has_its_own_brains_embeddings_and_images():
    pairs = told_apart()
    for responses, features in pairs.batches(4, generators(0, 1)):
        assert responses.dtype == features.dtype == torch.float32
        assert torch.equal(responses[..., 1], features[..., 1])  # the same image on both sides
        assert features[0, :, 0].unique().tolist() == [2] and features[1, :, 0].unique().tolist() == [0]
        assert set(responses[0, :, 0].tolist()) <= {0, 1, 2} and set(responses[1, :, 0].tolist()) <= {2, 3, 4}
        assert responses[0, :, 1].max() < 12 and responses[1, :, 1].min() >= 8


def test_no_batch_holds_an_image_twice_and_the_ragged_end_of_each_lap_is_dropped():
    pairs = told_apart(count=14)
    batches = list(pairs.batches(4, generators(0, 1)))
    assert len(batches) == 9 and len(pairs) == 14
    assert all(len(responses[run, :, 1].unique()) == 4 for responses, _ in batches for run in range(2))
    dropped = [set(range(14)) - {i for r, _ in batches[k : k + 3] for i in r[0, :, 1].tolist()} for k in (0, 3, 6)]
    assert [len(lap) for lap in dropped] == [2, 2, 2] and len({frozenset(lap) for lap in dropped}) > 1


def test_who_shows_an_image_is_drawn_anew_and_evenly():
    pairs, generator = told_apart(), generators(0)[0]
    one = pairs.keep(torch.tensor([0]))
    first = torch.zeros(12, 3)
    for _ in range(300):
        responses = next(one.batches(12, [generator]))[0][0].long()
        first[responses[:, 1], responses[:, 0]] += 1
    assert first.sum() == 3600 and (first / 300 - 1 / 3).abs().max() < 0.12  # 4.4 standard deviations


def test_each_generator_orders_its_own_run():
    def epoch(*seeds: int) -> torch.Tensor:
        return torch.cat([responses for responses, _ in told_apart().batches(4, generators(*seeds))], dim=1)

    assert torch.equal(epoch(0, 1), epoch(0, 1))
    assert torch.equal(epoch(0, 1)[0], epoch(0, 7)[0]) and not torch.equal(epoch(0, 1)[1], epoch(0, 7)[1])
    kept = told_apart().keep(torch.tensor([1]))
    alone = torch.cat([responses for responses, _ in kept.batches(4, generators(1))], dim=1)
    assert torch.equal(alone[0], epoch(0, 1)[1])


@pytest.mark.parametrize("mixed", MIXTURES)
def test_a_batch_is_the_mixture_of_an_images_own_repetitions(mixed):
    """One-hot repetitions come out as the shares; what all repetitions agree on comes out as it is."""
    pairs = told_apart(mixed=mixed)
    batches = list(pairs.batches(4, generators(0, 1)))
    seen = torch.cat([responses for responses, _ in batches], dim=1)
    for responses, features in batches:
        torch.testing.assert_close(responses[..., 1], features[..., 1])
    assert sorted(seen[0, :, 1].round().tolist()) == sorted(3 * list(range(12)))
    shares = seen[..., 2:]
    torch.testing.assert_close(shares.sum(dim=-1), torch.ones(2, 36))
    assert len(shares.flatten(0, 1).unique(dim=0)) > (10 if mixed == "subset" else 70)  # drawn for each response
    assert not torch.equal(shares[0], shares[1]) and not torch.equal(shares[:, :12], shares[:, 12:24])


def test_a_mixture_is_the_weighted_sum_written_out(monkeypatch):
    pairs = replace(told_apart(mixed="pairs"), responses=torch.randn(5, 20, 4, 3, 2, generator=generators(5)[0]))
    shares = torch.rand(12, 4, generator=generators(6)[0])
    monkeypatch.setitem(MIXTURES, "pairs", lambda count, repetitions, generator: shares)
    pairs = replace(pairs, brains=pairs.brains[:, 1:2])
    place = 0
    for responses, features in pairs.batches(4, generators(0, 1)):
        for run in range(2):
            for row in range(4):
                own = pairs.responses[pairs.brains[run, 0], features[run, row, 1].long()]
                expected = sum(shares[place + row, k] * own[k] for k in range(4))
                torch.testing.assert_close(responses[run, row], expected)
        place += 4


def test_held_out_responses_are_the_mean_over_all_repetitions_in_order():
    for mixed in (None, *MIXTURES):
        pairs = told_apart(mixed=mixed)
        for subject in range(3):
            chunks = list(pairs.chunks(5, subject))
            assert [responses.shape[1] for responses, _ in chunks] == [5, 5, 2]
            responses, features = (torch.cat(parts, dim=1) for parts in zip(*chunks, strict=True))
            assert torch.equal(responses[..., 0], pairs.brains[:, subject, None].expand(2, 12).float())
            assert torch.equal(responses[..., 1], pairs.rows.float())
            assert torch.equal(features[..., 1], pairs.rows.float())
            assert torch.equal(features[:, 0, 0], pairs.embeddings.float())
            if mixed:
                assert torch.equal(responses[..., 2:], torch.full((2, 12, 4), 0.25))


def test_a_random_subset_holds_each_repetition_about_half_of_the_time_and_is_never_empty():
    """One for certain and the others with one chance in two: (1 + K / 2 - 1 / 2) / K of them, on average."""
    for repetitions in (1, 2, 4, 10):
        shares = random_subset(20000, repetitions, *generators(0))
        assert shares.shape == (20000, repetitions)
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(20000))
        counts = (shares > 0).sum(dim=1)
        torch.testing.assert_close(shares.amax(dim=1), 1 / counts)  # all that are drawn count alike
        expected = 0.5 + 0.5 / repetitions
        assert ((shares > 0).float().mean(dim=0) - expected).abs().max() < 0.015
        assert set(counts.tolist()) == set(range(1, repetitions + 1))
    assert torch.equal(random_subset(9, 4, *generators(3)), random_subset(9, 4, *generators(3)))
    assert not torch.equal(random_subset(9, 4, *generators(3)), random_subset(9, 4, *generators(4)))


def test_random_pairs_are_two_repetitions_in_any_proportion():
    for repetitions in (2, 4, 7):
        shares = random_pairs(20000, repetitions, *generators(0))
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(20000))
        assert ((shares > 0).sum(dim=1) == 2).all() and (shares >= 0).all()
        assert ((shares > 0).float().mean(dim=0) - 2 / repetitions).abs().max() < 0.015
        share = shares.amax(dim=1)  # the larger of u and 1 - u is even between a half and one
        assert abs(share.mean() - 0.75) < 0.005 and abs(share.std() - 0.5 / 12**0.5) < 0.005
    assert torch.equal(random_pairs(5, 1, *generators(0)), torch.ones(5, 1))
    assert torch.equal(random_pairs(9, 4, *generators(3)), random_pairs(9, 4, *generators(3)))
    assert not torch.equal(random_pairs(9, 4, *generators(3)), random_pairs(9, 4, *generators(4)))


@pytest.mark.parametrize("mixed", [None, *MIXTURES])
def test_streamed_batches_are_those_that_are_not_streamed(mixed):
    threads = threading.active_count()
    pairs, streams = told_apart(mixed=mixed), [generators(0, 1), generators(0, 1)]
    for _ in range(2):  # and the generators are left in the same state
        plain = list(pairs.batches(4, streams[0]))
        streamed = list(replace(pairs, streamed=True).batches(4, streams[1]))
        assert len(plain) == len(streamed) == 9
        for ours, theirs in zip(streamed, plain, strict=True):
            assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    assert threading.active_count() == threads


def test_half_precision_is_read_as_what_it_holds():
    pairs = told_apart()
    halves = replace(pairs, responses=pairs.responses.half())
    for ours, theirs in zip(halves.batches(4, generators(0, 1)), pairs.batches(4, generators(0, 1)), strict=True):
        assert ours[0].dtype == torch.float32 and torch.equal(ours[0], theirs[0])


def test_an_error_in_the_thread_reaches_whoever_waits(monkeypatch):
    original, calls, threads = Pairs._batch, [], threading.active_count()

    def broken(self, *arguments):
        calls.append(threading.current_thread())
        if len(calls) == 3:
            raise OSError("the file has gone")
        return original(self, *arguments)

    monkeypatch.setattr(Pairs, "_batch", broken)
    found = []
    with pytest.raises(OSError, match="the file has gone"):
        for batch in replace(told_apart(), streamed=True).batches(4, generators(0, 1)):
            found.append(batch)
    assert len(found) == 2 and threading.main_thread() not in calls
    assert threading.active_count() == threads


def test_a_stream_that_is_left_ends_its_thread_and_never_ran_far_ahead(monkeypatch):
    original, calls, threads = Pairs._batch, [], threading.active_count()
    monkeypatch.setattr(Pairs, "_batch", lambda self, *arguments: calls.append(1) or original(self, *arguments))
    batches = replace(told_apart(), streamed=True).batches(2, generators(0, 1))
    next(batches)
    time.sleep(0.3)  # the thread has all the time it wants, and 18 batches to make
    assert threading.active_count() == threads + 1
    assert 1 + AHEAD <= len(calls) <= 2 + AHEAD  # one in use, some ready, one in its hands
    batches.close()
    assert threading.active_count() == threads


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


def test_a_picture_without_a_folder_is_a_concept_of_its_own():
    scenes = [f"nsd-{number:05d}" for number in range(40)]
    fitted, held_out = split(scenes, "concept", 0.25, 0)
    assert (len(fitted), len(held_out)) == (30, 10)
    assert concept("a/b/c.jpg") == concept("a/b/d.jpg") == "a/b" and concept("c.jpg") == "c.jpg"


def test_a_split_depends_on_the_ids_and_not_on_their_order():
    images = image_ids(10, 4)
    other = images[::-1]
    for unit in ("image", "concept"):
        chosen = [[ids[row] for row in split(ids, unit, 0.2, 3)[1]] for ids in (images, other)]
        assert chosen[0] == chosen[1]
        assert set(chosen[0]) != {images[row] for row in split(images, unit, 0.2, 4)[1]}


def test_the_seed_chooses_what_is_held_out_and_the_order_is_random():
    images = image_ids(30, 4)
    for unit in ("image", "concept"):
        chosen = [frozenset(split(images, unit, 0.2, seed)[1].tolist()) for seed in range(20)]
        assert len(set(chosen)) == 20
        counts = sum(torch.zeros(120).index_fill(0, torch.tensor(sorted(rows)), 1) for rows in chosen)
        assert counts.max() < 14 and (counts > 0).float().mean() > 0.9  # nothing is always or never held out
        fitted, held_out = split(images, unit, 0.2, 0)
        assert fitted.tolist() != sorted(fitted) and held_out.tolist() != sorted(held_out)
        assert torch.equal(fitted, split(images, unit, 0.2, 0)[0])


def test_too_few_images_to_split_are_refused_with_the_numbers():
    with pytest.raises(AlignvisError, match="5 training images in 5 images are too few: .* leaves 4 to train on and 1"):
        split(image_ids(1, 5), "image", 0.1, 0)
    with pytest.raises(AlignvisError, match="leaves 0 to train on"):
        split(image_ids(1, 5), "concept", 0.1, 0)
