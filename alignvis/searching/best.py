"""The best of what each query was offered, in whatever order: lists that can be put together again."""

from threading import Lock

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


class Best:
    """The k most similar pictures of each query so far, and what is told of those beyond.

    Similarity decides, and where it is equal the picture's number in the gallery, the lower first: the outcome is the
    same in whatever order, and by how many threads, pictures are offered.

    Attributes:
        scores: (queries, k) float32, falling; -inf where there is no picture yet.
        rows: (queries, k) int64, numbers of the pictures in the gallery; -1 where there is none yet.
        tied: (queries,) int64, pictures outside the list that are exactly as similar as the last one in it.
        right: (queries,) float32, similarity of each query's own picture, +inf where it is not in the gallery; or None.
        above, equal: (queries,) int64, pictures that are more similar than the right one, and exactly as similar,
            itself among them.
        least: (queries,) float32, a similarity that k pictures of the gallery are known to have or exceed.
    """

    def __init__(
        self, queries: int, k: int, right: NDArray[np.float32] | None = None, least: NDArray[np.float32] | None = None
    ) -> None:
        self.k, self.right, self._lock = k, right, Lock()
        self.scores = np.full((queries, k), -np.inf, np.float32)
        self.rows = np.full((queries, k), -1, np.int64)
        self.tied, self.above, self.equal = (np.zeros(queries, np.int64) for _ in range(3))
        self.least = np.full(queries, -np.inf, np.float32) if least is None else least

    def floor(self, some: slice) -> NDArray[np.float32]:
        """The similarity below which a picture is not looked at, (some queries,); it only ever rises."""
        if not self.k:
            return np.full(len(self.least[some]), np.inf, np.float32)
        return np.maximum(self.scores[some, -1], self.least[some])

    def offer(self, query: Numbers, row: Numbers, score: NDArray[np.float32]) -> None:
        """Offer pairs of a query and a picture, (pairs,) each; no pair is offered twice."""
        with self._lock:
            self._put(query, row, score)

    def count(self, some: slice, above: Numbers) -> None:
        """Count pictures that are surely more similar than the right one, (some queries,)."""
        with self._lock:
            self.above[some] += above

    def compare(self, query: Numbers, row: Numbers, score: NDArray[np.float32]) -> None:
        """Compare pairs, (pairs,) each, with the right picture."""
        assert self.right is not None
        with self._lock:
            np.add.at(self.above, query, score > self.right[query])
            np.add.at(self.equal, query, score == self.right[query])

    def join(self, other: "Best") -> None:
        """Take in what was found in another part of the gallery."""
        there = other.rows >= 0
        query = np.nonzero(there)[0]
        self._put(query, other.rows[there], other.scores[there])
        if self.k:  # what the other left out is as similar as its last one
            self.tied += np.where(other.scores[:, -1] == self.scores[:, -1], other.tied, 0)
        self.above += other.above
        self.equal += other.equal

    def _put(self, query: Numbers, row: Numbers, score: NDArray[np.float32]) -> None:
        if not len(query) or not self.k:
            return
        touched, place = np.unique(query, return_inverse=True)
        old = self.rows[touched] >= 0
        last = self.scores[touched, -1].copy()
        owner = np.concatenate([np.nonzero(old)[0], place])
        row = np.concatenate([self.rows[touched][old], row])
        score = np.concatenate([self.scores[touched][old], score])
        order = np.lexsort((row, -score, owner))
        owner, row, score = owner[order], row[order], score[order]
        rank = np.arange(len(owner)) - np.searchsorted(owner, np.arange(len(touched)))[owner]
        listed = rank < self.k
        self.scores[touched[owner[listed]], rank[listed]] = score[listed]
        self.rows[touched[owner[listed]], rank[listed]] = row[listed]
        now = self.scores[touched, -1]
        left = ~listed & (score == now[owner])
        more = np.bincount(owner[left], minlength=len(touched))
        self.tied[touched] = np.where(last == now, self.tied[touched], 0) + more
