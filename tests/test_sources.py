import hashlib
from concurrent.futures import CancelledError

import pytest

from alignvis.recordings.sources import BLOCK, describe, hashing


def test_digests_are_sha256(tmp_path):
    contents = b"", b"abc", b"x" * (2 * BLOCK + 1)
    paths = [tmp_path / str(index) for index in range(3)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    with hashing(paths) as digests:
        assert [digest.result().tobytes() for digest in digests] == [hashlib.sha256(c).digest() for c in contents]


def test_an_interruption_does_not_wait_for_the_digest(tmp_path):
    with open(tmp_path / "large", "wb") as file:
        file.truncate(64 * BLOCK)
    with pytest.raises(KeyboardInterrupt), hashing([tmp_path / "large"]) as digests:
        raise KeyboardInterrupt
    assert isinstance(digests[0].exception(), CancelledError)


def test_sources_are_named_below_their_folder(tmp_path):
    path = tmp_path / "sub-01" / "ses-01" / "raw.npy"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"12345")
    assert describe([path], tmp_path) == [{"file": "sub-01/ses-01/raw.npy", "bytes": 5}]
