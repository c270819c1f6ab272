import pytest

from alignvis.explanations.regions import REGIONS, region, regions
from alignvis.recordings.brain import ELECTRODES


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("Fp1 AF7 AFz F8 FPZ fz F10", "frontal"),
        ("FC1 FCz C3 Cz CP6 cpz FFC1h CCP2h", "central"),
        ("FT9 T7 TP10 T3", "temporal"),
        ("P1 Pz P10", "parietal"),
        ("PO7 POz O1 Oz Iz PO10 POO9h", "occipital"),
        ("MLF11-1609 MZF01-1609 MRF46", "frontal"),
        ("MLC11-1609 MZC04", "central"),
        ("MRT57-1609", "temporal"),
        ("MLP12-1609", "parietal"),
        ("MZO01-1609 MLO53-1609", "occipital"),
        ("A1 M2 E17 voxel-00003 EOG MEG0113 VEOG F Fpx P100 O1-ref X3 C3h4", "other"),
    ],
)
def test_regions_by_name(names, expected):
    assert {name: region(name) for name in names.split()} == dict.fromkeys(names.split(), expected)


def test_every_electrode_of_things_eeg2_has_one_region_and_none_is_other():
    found = regions(ELECTRODES)
    assert sorted(place for places in found.values() for place in places) == list(range(63))
    assert list(found) == list(REGIONS[:-1])
    counts = {"frontal": 15, "central": 21, "temporal": 10, "parietal": 9, "occipital": 8}
    assert {name: len(places) for name, places in found.items()} == counts


def test_places_are_in_the_order_of_the_channels():
    assert regions(["Oz", "E1", "Fz", "O1"]) == {"frontal": [2], "occipital": [0, 3], "other": [1]}
    assert regions([]) == {}
