import mne
import numpy as np
import pytest

from alignvis.errors import AlignvisError
from alignvis.recordings.trials import Trials, find_trials, permutation, plan, select


def test_published_order():
    assert permutation(2).tolist() == [1, 0]
    assert permutation(3)[:2].tolist() == [1, 2]
    assert permutation(5)[:2].tolist() == [3, 2]
    assert permutation(4).tolist() == [2, 1, 3, 0]
    assert permutation(20).tolist() == [11, 1, 17, 0, 12, 10, 18, 14, 5, 19, 9, 16, 6, 15, 2, 3, 7, 13, 4, 8]
    assert permutation(21)[:20].tolist() == [11, 1, 18, 0, 12, 10, 19, 14, 5, 20, 9, 17, 6, 16, 2, 15, 3, 7, 13, 4]
    assert permutation(22)[:20].tolist() == [1, 15, 10, 0, 19, 12, 11, 20, 16, 5, 21, 9, 18, 6, 17, 14, 2, 3, 7, 13]
    first = [61, 73, 26, 56, 42, 37, 72, 78, 58, 24, 3, 76, 48, 38, 20, 47, 2, 21, 31, 67]
    assert permutation(80)[:20].tolist() == first


def stim(pulses, samples=5000):
    channel = np.zeros(samples)
    for sample, code in pulses.items():
        channel[sample] = code
    return channel


def test_events_are_mnes_events():
    channel = stim({300: 4, 500: 99999, 701: 4, 702: 4, 703: 4, 900: 7, 1100: 1, 1300: 1})
    info = mne.create_info(["stim"], 1000, ["stim"])
    events = mne.find_events(mne.io.RawArray(channel[None], info, verbose=False), verbose=False)
    events = events[events[:, 2] != 99999]
    found = find_trials(channel, 7, 200, 1000)
    assert found.onsets.tolist() == events[:, 0].tolist() == [300, 701, 900, 1100, 1300]
    assert (found.images + 1).tolist() == events[:, 2].tolist()
    assert found.cut_off == 0


def test_a_trial_is_kept_if_and_only_if_it_was_recorded_to_the_last_sample():
    found = find_trials(stim({0: 1, 199: 2, 200: 3, 3999: 4, 4000: 5}), 5, 200, 1000)
    assert (found.images + 1).tolist() == [3, 4] and found.cut_off == 3


def test_codes_are_rounded():
    assert find_trials(stim({300: 6.9999999}), 7, 200, 1000).images.tolist() == [6]


@pytest.mark.parametrize(
    ("pulses", "sentence"),
    [
        ({300: 1, 600: 8}, "code 8 at sample 600, but there are pictures for 1 to 7"),
        ({300: -1}, "code -1 at sample 300"),
        ({300: 1, 400: np.nan}, "no event codes"),
        ({300: 1e300}, "no event codes"),
        ({}, "no picture in it"),
        ({300: 99999}, "no picture in it"),
    ],
)
def test_a_channel_without_event_codes_is_refused(pulses, sentence):
    with pytest.raises(AlignvisError, match=sentence):
        find_trials(stim(pulses), 7, 200, 1000)


def test_selection_by_hand():
    # picture 5 is shown at trials 0, 3, 4 (n = 3: entries 1 and 2), picture 2 at 1 and 2 (n = 2: entries 1 and 0)
    images, chosen = select(np.array([5, 2, 2, 5, 5]), 2)
    assert images.tolist() == [2, 5]
    assert chosen.tolist() == [[2, 1], [3, 4]]


def shown(*images):
    images = np.array(images)
    return Trials(1000 * (1 + np.arange(len(images))), images, 0)


def test_published_order_of_sessions():
    # slots 0 and 2 come from the later session, 1 and 3 from the earlier one
    whole = plan({1: shown(0, 0), 2: shown(1, 1), 3: shown(1, 1), 4: shown(0, 0)}, 2)
    assert whole.sessions.tolist() == [[4, 1, 4, 1], [3, 2, 3, 2]]
    assert whole.sessions.dtype == np.uint8
    # merged: [first rep0, first rep1, later rep0, later rep1], each pair already in the order 1, 0;
    # slot r holds P(4)[r]
    first, later = whole.places[1], whole.places[4]
    assert first.onsets.tolist() == [1000, 2000] and first.slots.tolist() == [1, 3] and first.rows.tolist() == [0, 0]
    assert later.onsets.tolist() == [1000, 2000] and later.slots.tolist() == [2, 0]
    assert whole.left_out == 0


def test_every_picture_gets_as_many_repetitions_as_the_one_with_the_fewest():
    part = plan({3: shown(0, 0, 7, 7), 1: shown(0, 0, 4, 4)}, 2)
    assert part.images.tolist() == [0, 4, 7]
    assert part.sessions.tolist() == [[1, 1], [1, 1], [3, 3]]  # of picture 0 the earlier session's
    assert part.left_out == 2
    assert part.places[3].slots.tolist() == [-1, -1, 0, 1]


def test_no_trial_is_used_twice_and_no_slot_is_empty():
    rng = np.random.default_rng(0)
    pictures = np.repeat(np.arange(30), 3)
    part = plan({session: shown(*rng.permutation(pictures)) for session in (1, 2, 3)}, 2)
    assert part.sessions.shape == (30, 6) and (part.sessions > 0).all()
    slots = [(r, s) for places in part.places.values() for r, s in zip(places.rows, places.slots, strict=True)]
    assert len(set(slots)) == len(slots) == 30 * 6
    for places in part.places.values():
        assert (np.diff(places.onsets) > 0).all()
