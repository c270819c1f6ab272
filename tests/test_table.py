from alignvis.table import scores_table


def score(**changes) -> dict:
    return {
        "dataset": "things-eeg2",
        "simulated": False,
        "recipe": "alignvis",
        "protocol": "within",
        "trained_on": [1],
        "validation": "image",
        "n": 200,
        "gallery": 200,
        "repetitions": 80,
        "encoder": "nice",
        "features": "a",
        "aligned": True,
        "subject": 1,
        "seed": 0,
        "top1": 0.5,
        "top3": 0.6,
        "top5": 0.7,
        "median_rank": 1.0,
        "top1_chance": 0.005,
        "top3_chance": 0.015,
        "top5_chance": 0.025,
        "median_rank_chance": 100.5,
        **changes,
    }


def test_a_table_by_hand():
    scores = [
        score(),
        score(seed=1, top1=0.6),
        score(subject=2, top1=0.25),
        score(features="b", aligned=False, top1=0.9),
    ]
    lines = scores_table(scores).splitlines()
    assert lines[0] == "things-eeg2: 200 test responses, each the mean of 80 repetitions, among 200 pictures"
    assert [line.split() for line in lines[6:10]] == [
        "nice b no 1 1 90.0 85.1 to 93.4 60.0 70.0 1".split(),
        "nice a yes 1 2 55.0 ± 7.1 48.1 to 61.7 60.0 ± 0.0 70.0 ± 0.0 1".split(),
        "nice a yes 2 1 25.0 19.5 to 31.4 60.0 70.0 1".split(),
        "nice a yes all 2 40.0 ± 21.2 - 60.0 ± 0.0 70.0 ± 0.0 1".split(),
    ]
    assert lines[10] == "chance: top-1 0.5%, top-3 1.5%, top-5 2.5%, median rank 100.5"


def test_the_interval_over_subjects_is_students():
    lines = scores_table([score(subject=s, top1=top1) for s, top1 in ((1, 0.5), (2, 0.6), (3, 0.4))]).splitlines()
    assert "50.0 ± 10.0  25.2 to 74.8" in lines[9]  # 4.303 * 10 / sqrt(3) = 24.8


def test_only_like_stands_beside_like_and_simulated_data_say_so():
    text = scores_table([score(), score(simulated=True), score(recipe="alignvis-fixed"), score(gallery=100)])
    assert text.count("test responses") == 4 and text.count("SIMULATED") == 1


def test_equal_subjects_have_no_interval():
    lines = scores_table([score(subject=subject, top1=0.1) for subject in (1, 2, 3)]).splitlines()
    assert "10.0 to 10.0" not in "\n".join(lines)
    assert next(line for line in lines if "all 3" in line).split()[6:8] != ["10.0", "to"]
