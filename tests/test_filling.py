"""Responses tables filled block by block."""

import os

import numpy as np
import pytest

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.recordings.filling import Block, about, check_dataset, check_sources, fill, is_there, summary

TRAIN, TEST = 6, 2


def blocks(size: int) -> list[Block]:
    """The training part image by image, two repetitions each, in runs of `size`; the test part at once."""
    rows, slots = np.repeat(np.arange(TRAIN), 2), np.tile([0, 1], TRAIN)
    found = [
        Block("train", rows[at : at + size], slots[at : at + size], at, "training trials")
        for at in range(0, len(rows), size)
    ]
    return [*found, Block("test", np.arange(TEST), np.zeros(TEST, dtype=int), 100, "test trials")]


def values(block: Block) -> np.ndarray:
    """Each value says where it belongs: row, slot, channel, time."""
    base = 100 * block.rows + 10 * block.slots + (0.5 if block.part == "test" else 0)
    return base[:, None, None] + np.arange(3)[:, None] / 4 + np.arange(4) / 8


def document() -> dict:
    return about("tiny", 1, "units", True, {"channels": "all"}) | {
        "channels": ["a", "b", "c"],
        "sfreq": 100.0,
        "tmin": 0.0,
        "train_images": [f"t/{row}.jpg" for row in range(TRAIN)],
        "test_images": [f"s/{row}.jpg" for row in range(TEST)],
    }


SESSIONS = {"train": np.tile(np.array([[1, 2]], np.uint8), (TRAIN, 1)), "test": np.ones((TEST, 1), np.uint8)}


def run(out, source, *, size=3, read=values, dtype="float32"):
    fill(
        out,
        document(),
        SESSIONS,
        (3, 4),
        blocks(size),
        read,
        dtype=dtype,
        sources=[source],
        progress=lambda *_: None,
    )


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.bin"
    path.write_bytes(b"recording")
    return path


def test_every_response_stands_where_its_block_says(tmp_path, source):
    for size in (1, 3, 5, 12):
        out = tmp_path / f"{size}.safetensors"
        run(out, source, size=size)
        table = store.load_responses(out)
        for row in range(TRAIN):
            for slot in range(2):
                expected = 100 * row + 10 * slot + np.arange(3)[:, None] / 4 + np.arange(4) / 8
                np.testing.assert_array_equal(table.train[row, slot], expected)
        np.testing.assert_array_equal(table.test[1, 0, 2], 100.5 + 0.5 + np.arange(4) / 8)
        np.testing.assert_array_equal(table.train_session, SESSIONS["train"])
    made = summary(out, False, 0.0, ["note"])
    assert (made["train"], made["test"], made["dtype"]) == ([6, 2, 3, 4], [2, 1, 3, 4], "float32")


def test_an_interrupted_call_goes_on_and_ends_with_the_same_bytes(tmp_path, source, monkeypatch):
    monkeypatch.setattr("alignvis.recordings.filling.CHECKPOINT", 0.0)
    whole, again, seen = tmp_path / "whole.safetensors", tmp_path / "again.safetensors", []
    run(whole, source)

    def stops(block):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(block.where)
        return values(block)

    with pytest.raises(KeyboardInterrupt):
        run(again, source, read=stops)
    assert not again.exists()
    rest = []
    run(again, source, read=lambda block: rest.append(block.where) or values(block))
    assert rest == [9, 100] and again.read_bytes() == whole.read_bytes()


def test_a_source_that_was_touched_is_read_from_the_beginning(tmp_path, source):
    out, seen = tmp_path / "out.safetensors", []

    def stops(block):
        if block.part == "test":
            raise KeyboardInterrupt
        return values(block) + 1

    with pytest.raises(KeyboardInterrupt):
        run(out, source, read=stops)
    os.utime(source, ns=(1, 1))
    run(out, source, read=lambda block: seen.append(block.where) or values(block))
    assert seen == [0, 3, 6, 9, 100]
    assert store.load_responses(out).train[0, 0, 0, 0] == 0


@pytest.mark.parametrize("bad, shown", [(np.nan, "nan"), (np.inf, "inf"), (7e4, "70000")])
def test_what_the_table_cannot_hold_is_refused_with_its_channel_and_nothing_is_kept(tmp_path, source, bad, shown):
    def broken(block):
        found = values(block)
        found[0, 1, 2] = bad
        return found

    out = tmp_path / "out.safetensors"
    with pytest.raises(AlignvisError, match=f"channel b has the value {shown}"):
        run(out, source, read=broken, dtype="float16")
    assert list(tmp_path.iterdir()) == [source]


def test_a_table_made_otherwise_never_passes_for_the_one_asked_for(tmp_path, source):
    out = tmp_path / "out.safetensors"
    assert not is_there(out, {"channels": "all"}, False)
    run(out, source)
    assert is_there(out, {"channels": "all"}, False) and not is_there(out, {"channels": "all"}, True)
    with pytest.raises(AlignvisError, match="was made with channels all, and channels O1 is asked for; --overwrite"):
        is_there(out, {"channels": "O1"}, False)


def test_a_table_is_kept_only_if_it_was_made_of_these_very_files(tmp_path, source):
    out = tmp_path / "out.safetensors"
    run(out, source)
    check_sources(out, [source])
    os.utime(source, ns=(1, 1))  # touched, and the same
    check_sources(out, [source])
    source.write_bytes(b"RECORDING")
    with pytest.raises(AlignvisError, match="was made of other files .*source.bin is one that differs.*--overwrite"):
        check_sources(out, [source])


def test_a_source_that_changes_while_it_is_read_leaves_no_table(tmp_path, source):
    def changing(block):
        if block.part == "test":
            source.write_bytes(b"longer than it was")
        return values(block)

    with pytest.raises(AlignvisError, match="source.bin changed while it was read"):
        run(tmp_path / "out.safetensors", source, read=changing)
    assert list(tmp_path.iterdir()) == [source]


def test_values_that_half_precision_would_round_away_are_refused(tmp_path, source):
    with pytest.raises(AlignvisError, match="so small that the float16 .* choose --float32"):
        run(tmp_path / "out.safetensors", source, read=lambda block: 1e-8 * values(block), dtype="float16")
    run(tmp_path / "out.safetensors", source, read=lambda block: 1e-8 * values(block), dtype="float32")


def test_a_dataset_is_named_by_a_plain_name():
    check_dataset("things-eeg2.v1_a")
    for name in ("../x", "a/b", "", ".hidden", "a b"):
        with pytest.raises(AlignvisError, match="cannot name a dataset"):
            check_dataset(name)
