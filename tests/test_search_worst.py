"""What a library, a file, a thread or its user may do at worst: the nearest are found all the same, or nothing is."""

import io
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, main_thread

import numpy as np
import pytest
import torch

from alignvis.searching import nearest as search
from alignvis.searching.best import Best
from alignvis.searching.nearest import Shard, Workers, exact, nearest, prepare_queries, scan
from tests.test_search import random


def test_a_file_that_gives_little_at_a_time_is_read_to_the_end(tmp_path):
    class Slow(io.FileIO):
        def readinto(self, into) -> int:
            return super().readinto(into[:100])

    gallery, path = random(50, 8, seed=1).numpy(), tmp_path / "vectors"
    path.write_bytes(gallery.tobytes())
    into = np.empty((20, 8), "f4")
    with Slow(path) as file:
        Shard(path, 50, 8).read(file, 30, into)
    np.testing.assert_array_equal(into, gallery[30:])


def test_threads_that_offer_at_once_lose_nothing():
    scores = random(20, 2000).numpy()
    best, before = Best(20, 30, np.full(20, 9, "f4")), sys.getswitchinterval()

    def offers(mine: range) -> None:
        for row in mine:
            best.offer(np.arange(20), np.full(20, row), scores[:, row])
            best.count(slice(0, 20), np.ones(20, np.int64))
            best.compare(np.arange(20), np.full(20, row), np.full(20, 9, "f4"))

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(offers, [range(start, 2000, 4) for start in range(4)]))
    finally:
        sys.setswitchinterval(before)
    np.testing.assert_array_equal(best.rows, np.argsort(-scores, axis=1, kind="stable")[:, :30])
    assert (best.above == 2000).all() and (best.equal == 2000).all()


@pytest.fixture
def pair():
    """Two threads, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with Workers() as workers:
        yield workers
    torch.set_num_threads(before)


def test_where_one_thread_fails_the_others_take_nothing_more(pair):
    both, failed, taken = Barrier(2), Event(), []

    def work(starts) -> None:
        for start in starts:
            taken.append(start)
            if start < 2:
                both.wait(30)
            if start == 1:  # not the one whose end is waited for
                failed.set()
                raise ValueError
            failed.wait(30)
            time.sleep(0.2)  # for the other to be caught

    with pytest.raises(ValueError):
        pair.each(work, range(50))
    assert sorted(taken) == [0, 1]


def test_who_is_interrupted_waits_for_no_more_than_what_was_begun(pair):
    both, taken = Barrier(2), []

    def work(starts) -> None:
        for start in starts:
            taken.append(start)
            if start < 2:
                both.wait(30)
            time.sleep(0.2)  # until the main thread waits: on its way there Python may miss that it is called
            if start == 0:
                signal.pthread_kill(main_thread().ident, signal.SIGINT)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background lacks
    try:
        with pytest.raises(KeyboardInterrupt):
            pair.each(work, range(50))
    finally:
        signal.signal(signal.SIGINT, handler)
    before = len(taken)
    time.sleep(0.3)
    assert len(taken) == before < 10


def test_an_interruption_before_all_threads_have_begun_stops_those_that_have(pair, monkeypatch):
    real, taken = pair.pool.submit, []

    def work(starts) -> None:
        for start in starts:
            taken.append(start)
            time.sleep(0.1)

    def once(given):
        monkeypatch.setattr(pair.pool, "submit", interrupted)
        return real(given)

    def interrupted(given):
        raise KeyboardInterrupt

    monkeypatch.setattr(pair.pool, "submit", once)
    with pytest.raises(KeyboardInterrupt):
        pair.each(work, range(20))
    before = len(taken)
    time.sleep(0.3)
    assert len(taken) == before < 10


# --- what a library may do at worst -----------------------------------------------------------------------------------


@pytest.fixture
def worst(monkeypatch):
    """Products in float32 that add one term after the other, and round after each."""

    def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        sums = np.add.accumulate((left[:, None] * right[None]).numpy(), axis=-1)
        return torch.from_numpy(sums[..., -1].copy())

    def mapped(vectors: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return product(vectors, weight) + bias if vectors.dtype == torch.float32 else real(vectors, weight, bias)

    real = search.linear
    monkeypatch.setattr(torch, "mm", lambda left, right, out: out.copy_(product(left, right.T)))
    monkeypatch.setattr(search, "linear", mapped)


TERMS = 4096
LOST = 2.0**-12.5  # its square is too small to change a sum that is 1, or 0.7, already


@pytest.mark.parametrize("sides", ["both", "none"])
@pytest.mark.parametrize("how", ["plain", "centred", "on a mean", "mapped to fewer", "mapped to more"])
def test_the_bound_of_a_product_holds_in_whatever_order_it_was_summed(worst, sides, how):
    """All terms of the nearest vector are lost but two, and none of the next one's."""
    ends, many = torch.zeros(TERMS), LOST * torch.tensor([1.0, -1.0]).repeat(TERMS // 2)
    ends[0], ends[-1], many[0], many[-1] = 1, -1, 1, -1
    lost = (TERMS - 2) * LOST**2
    query, gallery, projector = many[None], torch.stack([(1 + lost / 4) * ends, many, -many]), None
    centre = how in ("centred", "on a mean")
    if how == "on a mean":
        gallery += 0.25  # which is long beside them
    if how == "mapped to more":
        gallery = torch.tensor([[0, 1 + lost / 4], [1, 0], [-1, 0]])
        projector = torch.stack([many, ends], dim=1), torch.zeros(TERMS)
    if how == "mapped to fewer":  # the ends of the nearest one cancel, and what is lost was all
        weight = many.clone()
        weight[-1] = 1
        query, projector = torch.tensor([[1.0, 0.0]]), (torch.stack([weight, 0 * weight]), torch.tensor([0, 1e-4]))
        gallery = torch.stack([lost / 2 * ends.clamp(min=0), many, -many])
    asked = prepare_queries(query, sides, centre, projector)
    true = exact(asked, gallery, np.zeros(3, np.int64), np.arange(3))
    assert true[1] > true[0] > true[2]
    assert nearest(query, [gallery.numpy()], 1, sides, centre, projector)[1] == 1


def test_what_is_surely_more_similar_is_so_in_whatever_order_it_was_summed(worst):
    """A long vector whose negative terms are lost seems more similar than a short one, of which little is in doubt."""
    terms = torch.full((TERMS,), -TERMS * 1.5 * 2.0**-26)
    terms[0], terms[-1] = TERMS, 2 - TERMS
    gallery, query = torch.stack([64 * terms, torch.full((TERMS,), 1.8 / 64)]), torch.full((1, TERMS), 1 / 64)
    asked = prepare_queries(query, "none", False)
    true = exact(asked, gallery, np.zeros(2, np.int64), np.arange(2))
    assert true.tolist() == pytest.approx([1.625, 1.8], abs=1e-3)
    assert nearest(query, [gallery.numpy()], 1, "none", False)[1] == 1
    best = Best(1, 1, true[1:])
    with Workers() as workers:
        scan(asked, Shard(Path("x"), *gallery.shape, array=gallery.numpy()), slice(0, 2), best, workers)
    assert (best.above, best.equal, best.rows) == (0, 1, 1)
