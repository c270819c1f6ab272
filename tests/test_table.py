import numpy as np
import pytest

from alignvis.intervals import interval
from alignvis.retrieval import TOP, chances
from alignvis.stats import bootstrap, wilson
from alignvis.table import committee_table, curves_table, scores_table, seed_spread


def score(top1: float = 0.5, **changes) -> dict:
    """A score of 200 responses, of which so many shares are right and the others have rank 7."""
    right = round(200 * top1)
    measures = {"median_rank": 1.0, "mrr": 0.7, "pairwise": 0.95} | {f"top{k}": 0.7 for k in TOP}
    return {
        "dataset": "things-eeg2",
        "simulated": False,
        "recipe": "alignvis",
        "target": "embeddings",
        "protocol": "within",
        "trained_on": [1],
        "validation": "image",
        "n": 200,
        "gallery": 200,
        "repetitions": 80,
        "trials": None,
        "encoder": "nice",
        "features": "a",
        "aligned": True,
        "subject": 1,
        "seed": 0,
        **measures,
        "top1": top1,
        **{f"{key}_chance": value for key, value in chances(200).items()},
        "ranks": [1] * right + [7] * (200 - right),
        "images_sha256": "same",
        "n_way": {"2": 0.95, "10": 0.9},
        "image_to_brain": measures | {"top1": 0.45, "ranks": [1] * 90 + [5] * 110},
        "transductive": {"csls": {"top1": 0.61, "top5": 0.71}, "one_to_one": {"top1": 0.81}},
        "subset_galleries": None,
        "class_centres": None,
        **changes,
    }


def rows(text: str, after: int = 0) -> list[list[str]]:
    return [line.split() for line in text.splitlines()[after:]]


def test_a_table_by_hand():
    scores = [
        score(),
        score(0.6, seed=1),
        score(0.25, subject=2),
        score(0.9, features="b", aligned=False),
    ]
    lines = scores_table(scores).splitlines()
    assert lines[0] == "things-eeg2: 200 test responses, each the mean of 80 repetitions, among 200 pictures"
    assert lines[1] == "trained on the same subject; recipe alignvis; validation by image"
    assert lines[3].split("  ")[0] == "brain" and "recipe" not in lines[3] and "target" not in lines[3]
    low, high = interval([[scores[0], scores[1]], [scores[2]]])
    assert [line.split() for line in lines[5:9]] == [
        "nice b no 1 1 90.0 85.1 to 93.4 - 70.0 1 0.700 95.0".split(),
        "nice a yes 1 2 55.0 48.1 to 61.7 7.1 70.0 1 0.700 95.0".split(),
        "nice a yes 2 1 25.0 19.5 to 31.4 - 70.0 1 0.700 95.0".split(),
        f"nice a yes all 2 1 to 2 40.0 {100 * low:.1f} to {100 * high:.1f} - 70.0 1 0.700 95.0".split(),
    ]
    assert lines[9] == "chance: top-1 0.5%, top-5 2.5%, median rank 100.5, MRR 0.029, 2-way 50%"


def test_the_interval_over_subjects_is_the_bootstrap_over_subjects_and_pictures():
    rng = np.random.default_rng(0)
    hits = rng.random((4, 2, 200)) < rng.random((4, 1, 1))

    def of(subject: int, seed: int, **changes) -> dict:
        mine = hits[subject, seed]
        return score(mine.mean(), subject=subject, seed=seed, ranks=np.where(mine, 1, 9).tolist(), **changes)

    grid = [[of(subject, seed) for seed in range(2)] for subject in range(4)]
    assert interval(grid) == bootstrap(hits.mean(axis=1))  # seeds are averaged before anything is resampled
    assert interval(grid[:1]) == wilson(hits[0].mean(), 200)
    other = [[of(subject, 0, images_sha256=str(subject))] for subject in range(4)]  # each saw pictures of its own
    assert interval(other) == bootstrap([row.astype(float) for row in hits[:, 0]]) != bootstrap(hits[:, 0] * 1.0)


def test_the_spread_of_seeds_is_of_the_mean_over_subjects_and_stands_apart():
    grid = [[score(0.5), score(0.7, seed=1)], [score(0.3), score(0.1, seed=1)]]
    assert seed_spread(grid[:1]) == pytest.approx(0.2 / 2**0.5)
    assert seed_spread(grid) == pytest.approx(0.0)  # what one gains the other loses
    assert seed_spread([[score()]]) is None and seed_spread([*grid, [score()]]) is None
    assert seed_spread([grid[0], [*grid[1], score(0.9, seed=2)]]) is None  # not of the same seeds
    wide = [[score(0.5 - 0.4), score(0.5 + 0.4, seed=1)]]
    assert interval(wide) == wilson(0.5, 200)  # however far the seeds are apart


def test_only_like_stands_beside_like_and_simulated_data_say_so():
    text = scores_table([score(), score(simulated=True), score(validation="concept"), score(gallery=100)])
    assert text.count("test responses") == 4 and text.count("SIMULATED") == 1
    assert text.count("intervals: 95 %") == 1  # said once


def test_recipes_and_layers_are_columns_of_one_block_where_they_differ():
    layers = [score(top1, target=f"layer.{k}.class", recipe=f"r{k}") for k, top1 in ((3, 0.2), (6, 0.4), (9, 0.3))]
    text = scores_table(layers)
    assert text.count("test responses") == 1 and "learned" not in text and "recipe r" not in text
    assert rows(text, 3)[0][:6] == ["brain", "features", "aligned", "recipe", "target", "subject"]
    assert [row[4] for row in rows(text, 5)[:3]] == ["layer.6.class", "layer.9.class", "layer.3.class"]
    assert "recipe alignvis; learned layer.3.class; validation" in scores_table([score(target="layer.3.class")])


@pytest.mark.parametrize(
    ("repetitions", "trials", "said"),
    [
        (80, None, "each the mean of 80 repetitions"),
        (1, None, "each a single repetition"),
        (1, {"min": 1, "max": 3, "mean": 2.7}, "each the mean of 1 to 3 trials"),
        (1, {"min": 3, "max": 3, "mean": 3.0}, "each the mean of 3 trials"),
        (1, {"min": 1, "max": 1, "mean": 1.0}, "each a single trial"),
    ],
)
def test_of_what_a_response_is_the_mean(repetitions, trials, said):
    assert said in scores_table([score(repetitions=repetitions, trials=trials)])


def test_means_of_other_numbers_of_trials_stand_in_other_blocks():
    trials = [{"min": 1, "max": high, "mean": 1.5} for high in (2, 3)]
    text = scores_table([score(repetitions=1, trials=one) for one in trials])
    assert text.count("test responses") == 2 and "1 to 2 trials" in text and "1 to 3 trials" in text


def test_subjects_who_are_all_right_or_all_wrong_have_no_interval_and_others_do():
    assert interval([[score(0.0)], [score(0.0, subject=2)]]) is None
    assert interval([[score(1.0)], [score(1.0, subject=2)]]) is None
    low, high = interval([[score(0.1)], [score(0.1, subject=2)]])
    assert 0.05 < low < 0.1 < high < 0.16


def test_small_galleries_and_class_centres_stand_in_blocks_of_their_own():
    small = {"size": 300, "draws": 30, "seed": 0, "chance": 1 / 300}
    small |= {"brain_to_image": {"top1": 0.77, "top1_sd": 0.02}, "image_to_brain": {"top1": 0.66, "top1_sd": 0.03}}
    centres = {f"top{k}": 0.9 for k in TOP} | {"top1": 0.35, "median_rank": 4.0, "mrr": 0.4, "pairwise": 0.8}
    centres |= {"gallery": 190, "table": "x", "top1_interval": [0, 1], "ranks": [1] * 70 + [9] * 130}
    centres |= {f"{key}_chance": value for key, value in chances(190).items()}
    text = scores_table([score(subset_galleries=small, class_centres=centres)])
    whole, three_hundred, centre = text.split("\n\n300-way, ")[0], *text.split("\n\n300-way, ")[1].split("\n\namong ")
    assert "50.0" in whole and "77.0" not in whole and "35.0" not in whole
    assert "77.0" in three_hundred and "66.0" in three_hundred and "50.0" not in three_hundred
    assert "30 galleries of 300 of the pictures" in three_hundred and "chance: 0.33%" in three_hundred
    assert centre.startswith("190 class centres") and "35.0" in centre and "28.7 to 41.8" in centre
    assert "77.0" not in centre and "chance: top-1 0.5%" in centre


def test_what_is_asked_for_in_full_and_what_looks_at_the_whole_batch():
    plain, full = scores_table([score()]), scores_table([score()], full=True)
    assert "way %" not in plain.replace("2-way %", "") and "TRANSDUCTIVE" not in plain + full
    assert "10-way %" in full and "90.0" in full and "45.0" in full and "from a picture to the response" in full
    both = scores_table([score()], transductive=True)
    block = both.split("TRANSDUCTIVE: looks at the whole test batch")[1]
    assert all(number in block for number in ("61.0", "71.0", "81.0")) and "50.0" not in block.split("intervals")[0]
    assert "61.0" not in both.split("TRANSDUCTIVE")[0]


def test_a_curve_to_read():
    shares = {"top1": [0.1, 0.4], "top1_low": [0.05, 0.3], "top1_high": [0.2, 0.5], "top1_sd": [0.01, 0.0]}
    curve = shares | {"repetitions": [1, 4], "top5": [0.3, 0.6], "reliability": [0.2, None], "draws": 20, "n": 200}
    keys = ("dataset", "subject", "protocol", "encoder", "features", "aligned", "recipe", "target")
    curve |= {key: score()[key] for key in keys} | {"gallery": 200, "chance": 0.005, "simulated": True}
    text = curves_table([curve, curve | {"top1": [0.2, 0.5]}, curve | {"subject": 2}])
    assert text.count("SIMULATED") == 2 and text.count("drawn anew") == 1 and "chance: top-1 0.5%" in text
    first = text.split("\n\n")[1].splitlines()
    assert "nice, a, recipe alignvis, mean of 2 seeds; 200 test responses among 200 pictures" in text
    assert first[2].split() == ["1", "20", "15.0", "10.7", "to", "20.6", "1.0", "30.0", "0.200"]
    assert first[3].split() == ["4", "all", "45.0", "38.3", "to", "51.9", "-", "60.0", "-"]


def test_a_gallery_of_one_has_nothing_to_guess():
    one = score(n=1, gallery=1, ranks=[1], **{f"{key}_chance": value for key, value in chances(1).items()})
    assert "top-1 100.0%, top-5 100.0%, median rank 1, MRR 1.000, 2-way 100%" in scores_table([one])


def test_a_committee_says_that_what_it_was_chosen_by_is_no_result():
    member = {"encoder": "nice", "features": "a", "target": "embeddings", "recipe": "alignvis", "held_out_mrr": 0.4}
    committee = score(who="committee", seeds=[0, 1], members=[member], held_out_mrr=[0.4], candidates=2, held_out=30)
    text = " ".join(committee_table([committee | {"beside": []}]).split())
    assert "held-out MRR 0.400, of the committee so far 0.400" in text and "–" not in text
    full = committee_table([committee | {"beside": [], "subject": one} for one in (1, 2)], full=True)
    assert full.count("–") == 3 * 7 - 1  # of every measure of both subjects and of all, but one that all had right
    assert "held-out MRR is what was maximised" in text and "so it is optimistic, and no result" in text
