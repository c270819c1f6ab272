"""What a user types and what a user sees, from raw files to a score, with right files and with wrong ones."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from alignvis.cli import main
from tests.tables import planted

DATASET = "things-eeg2-simulated"


def run(*words: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def sentence(*words: str | Path, code: int = 1) -> str:
    """What a command that fails says: one line."""
    text = run(*words, code=code).stderr
    assert text.startswith("Error: " if code == 1 else "Usage: ")
    assert code == 2 or text.count("\n") == 1
    return text


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    """A root on which everything up to the features has been done through the command line."""
    root = tmp_path_factory.mktemp("cli") / "data"
    run("--quiet", "simulate", "things-eeg2", "--out", root, "--concepts", 8, "--test", 10, "--test-repetitions", 2)
    run("--root", root, "prepare", "things-eeg2", "--raw", root / "raw", "--subject", 1)
    run("--root", root, "extract", "--encoder", "lowlevel", "--encoder", "untrained_vit")
    return root


@pytest.fixture
def root(simulated, tmp_path) -> Path:
    """A copy that a test may spoil; the large raw files stay where they are."""
    for name in ("responses", "features", "images"):
        shutil.copytree(simulated / name, tmp_path / name)
    return tmp_path


QUICK = ("--encoder", "linear", "--batch", 32, "--epochs", 2)


def test_from_raw_files_to_a_score(root):
    trained = run("--root", root, "train", "--subject", 1, "--seed", "0-1", *QUICK)
    assert trained.stdout.count("best epoch") == 4 and f"next: alignvis --root {root} eval" in trained.stderr
    table = run("--root", root, "eval").stdout
    assert f"{DATASET} (SIMULATED brain): 10 test responses, each the mean of 8 repetitions, among 10 pictures" in table
    assert re.search(r"linear +lowlevel +no +1 +2 ", table) and re.search(r"linear +untrained_vit +no +1 +2 ", table)
    scores = [json.loads(line) for line in run("--root", root, "eval", "--json").stdout.splitlines()]
    assert len(scores) == 4 and {score["features"] for score in scores} == {"lowlevel", "untrained_vit"}
    assert all(score["top1_interval"][0] <= score["top1"] <= score["top1_interval"][1] for score in scores)
    again = run("--root", root, "train", "--subject", 1, "--seed", "0-1", *QUICK)
    assert again.stderr.count("was kept") == 4
    checked = run("--root", root, "check").stdout
    assert "SIMULATED responses of subject 1" in checked and checked.count("a run of linear") == 4


def test_what_is_there_is_kept_unless_asked_otherwise(simulated):
    table = simulated / "responses" / DATASET / "sub-01.safetensors"
    before = table.read_bytes()
    prepare = ("--root", simulated, "prepare", "things-eeg2", "--raw", simulated / "raw", "--subject", 1)
    assert f"kept {table}" in run(*prepare).stdout
    for words, said in ((["--channels", "occipital"], "channels all"), (["--float32"], "dtype float16")):
        assert f"was made with {said}" in sentence(*prepare, *words)
    assert "kept" in run("--root", simulated, "extract", "--encoder", "lowlevel").stdout
    run("--root", simulated, "prepare", "things-eeg2", "--raw", simulated / "raw", "--subject", 1, "--overwrite")
    assert table.read_bytes() == before  # the same files give the same bytes


def test_the_root_may_stand_anywhere_and_the_next_command_can_be_pasted(root):
    for words in (["--root", root, "check"], ["check", "--root", root], ["check", f"--root={root}"]):
        assert str(root) in run(*words).stdout
    assert f"next: alignvis --root {root} eval" in run("train", "--root", root, "--subject", 1, *QUICK).stderr


def test_scores_of_tables_that_changed_since_are_marked(root):
    run("--root", root, "train", "--subject", 1, "--features", "lowlevel", *QUICK)
    assert "changed" not in run("--root", root, "eval").stderr
    run("--root", root, "extract", "--encoder", "lowlevel", "--batch", 16, "--overwrite")
    assert "lowlevel.safetensors has changed or gone since" in run("--root", root, "eval").stderr
    assert "lowlevel.safetensors changed: train again" in run("--root", root, "check").stdout
    assert "has changed since" in sentence("--root", root, "eval", "--overwrite")


def test_an_encoder_that_says_always_the_same_is_told(root):
    run("--root", root, "train", "--subject", 1, "--features", "lowlevel", "--batch", 32, "--epochs", 1)
    score = json.loads(run("--root", root, "eval", "--json").stdout)
    told = "named only 1 picture for" in run("--root", root, "eval").stderr
    assert told == (score["answers"] == 1)


def test_output_that_nobody_reads_to_the_end_is_no_error(root):
    command = f"{sys.executable} -m alignvis --root {root} list | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("lowlevel") and done.stderr == ""


def test_results_are_json_lines_and_everything_else_goes_to_stderr(root):
    for words in (
        ["list"],
        ["list", "recipes"],
        ["list", "brain-encoders"],
        ["check"],
        ["train", "--subject", "1", *QUICK],
    ):
        result = run("--root", root, "--json", *words)
        assert [json.loads(line) for line in result.stdout.splitlines()]
    assert run("--root", root, "train", "--subject", "1", *QUICK, "--quiet", "--json").stderr == ""


def test_the_root_can_stand_in_the_environment(root):
    result = CliRunner(env={"ALIGNVIS_ROOT": str(root)}).invoke(main, ["check"])
    assert result.exit_code == 0 and str(root) in result.stdout


@pytest.mark.parametrize("command", [None, *sorted(main.commands)])
def test_help_says_what_a_command_does(command):
    text = run(*filter(None, [command]), "--help").stdout
    assert text.startswith("Usage:") and len(text.splitlines()) > 5


def test_folders_that_are_not_what_they_should_be(tmp_path, root):
    (tmp_path / "empty").mkdir()
    prepare = ("--root", root, "prepare", "things-eeg2", "--subject", 1, "--raw")
    assert "sub-01" in sentence(*prepare, tmp_path / "empty")
    assert "sub-01" in sentence(*prepare, tmp_path / "nothing")
    assert "sub-01" in sentence(*prepare, root / "images")
    assert "no picture" in sentence("--root", root, "extract", "--images", tmp_path / "empty", "--encoder", "lowlevel")
    assert "nothing" in sentence("--root", root, "extract", "--images", tmp_path / "nothing", "--encoder", "lowlevel")
    assert "no pictures in" in sentence("--root", tmp_path / "empty", "extract", "--encoder", "lowlevel")
    here = f"alignvis --root {tmp_path / 'empty'}"
    assert f"{here} prepare things-eeg2" in sentence("--root", tmp_path / "empty", "train", "--subject", 1)
    assert f"{here} train" in sentence("--root", tmp_path / "empty", "eval")
    assert "no tables and no runs" in sentence("--root", tmp_path / "empty", "check")


def test_a_session_or_subject_that_is_missing_is_named(simulated, tmp_path):
    raw = tmp_path / "raw" / "sub-01"
    shutil.copytree(simulated / "raw" / "sub-01", raw, ignore=lambda folder, names: {"ses-03"} & set(names))
    prepare = ("--root", simulated, "prepare", "things-eeg2", "--raw", tmp_path / "raw", "--overwrite", "--subject")
    assert "ses-03" in sentence(*prepare, 1)
    assert "sub-02" in sentence(*prepare, 2)


def test_pictures_that_are_none(root):
    victim = next((root / "images" / DATASET / "test_images").rglob("*.jpg"))
    whole = victim.read_bytes()
    extract = ("--root", root, "extract", "--encoder", "lowlevel", "--overwrite")
    for content in (b"this is text", b"", whole[: len(whole) // 2], b"<html></html>"):
        victim.write_bytes(content)
        assert victim.name in sentence(*extract)
    assert victim.name in run(*extract, "--skip-bad").stderr
    assert "1 of the" in sentence("--root", root, "train", "--subject", 1, "--features", "lowlevel", *QUICK)


def test_weights_that_are_none(root, tmp_path):
    page = tmp_path / "ViT-B-32.pt"
    page.write_text("<!DOCTYPE html><html>sign in</html>")
    extract = ("--root", root, "extract", "--encoder", "CLIP_ViT-B32_noalign")
    assert "web page" in sentence(*extract, "--weights", page)
    offline = sentence(*extract, "--offline")
    assert "ViT-B-32.pt" in offline and "https://" in offline and "weights" in offline
    assert "did you mean" in sentence("--root", root, "extract", "--encoder", "dreamsim_synclr_vitb61")


def test_tables_that_do_not_fit(root):
    table = root / "features" / DATASET / "lowlevel.safetensors"
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2])
    assert "not a whole safetensors file" in sentence("--root", root, "train", "--subject", 1, *QUICK)
    assert "not a whole safetensors file" in run("--root", root, "check", code=1).stdout
    planted(root)
    table.write_bytes(whole)
    words = ("--dataset", "tiny", "--features", "untrained_vit")
    assert "different image sets" in sentence("--root", root, "train", "--subject", 1, *words, *QUICK)
    assert "a batch takes 400" in sentence(
        "--root", root, "train", "--subject", 1, "--batch", 400, "--encoder", "linear"
    )


def test_a_device_that_is_not_there_is_a_sentence(root, monkeypatch):
    run("--root", root, "train", "--subject", 1, *QUICK)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for words in (
        ("train", "--subject", 1, *QUICK, "--overwrite"),
        ("eval",),
        ("extract", "--encoder", "lowlevel", "--overwrite"),
    ):
        assert "CUDA" in sentence("--root", root, *words, "--device", "cuda")


def test_hidden_and_empty_folders_are_no_image_sets(root):
    for name in (".hidden", "empty"):
        (root / "images" / name).mkdir()
    assert run("--root", root, "extract", "--encoder", "lowlevel").stdout.count("kept") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("train",),
        ("train", "--subject", "one"),
        ("train", "--subject", "3-1"),
        ("train", "--subject", "1", "--epochs", "0"),
        ("prepare", "things-eeg9", "--raw", ".", "--subject", "1"),
        ("prepare", "things-eeg2", "--subject", "1"),
        ("simulate", "things-eeg2"),
        ("extract", "--precision", "fp8"),
        ("nonsense",),
        ("eval", "--device", "tpu"),
        ("train", "--subject", "1-999999"),
    ],
)
def test_wrong_words_are_usage(words):
    assert "Error: " in sentence(*words, code=2)


def test_a_run_can_be_stopped_and_goes_on(root):
    """A real Ctrl-C on a real process: one sentence, exit code 1, no half run, and the second call finishes."""
    command = [
        sys.executable,
        "-m",
        "alignvis",
        "--root",
        str(root),
        "-v",
        "train",
        "--subject",
        "1",
        "--encoder",
        "linear",
    ]
    command += ["--features", "lowlevel", "--batch", "32", "--epochs", "2000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "epoch 3:" in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 1 and rest.endswith("Error: stopped; run the same command again to go on\n")
    assert "Traceback" not in rest and not list((root / "runs").glob("*"))


def test_a_disk_that_is_full_is_a_sentence(root):
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); sys.argv = ['alignvis', *sys.argv[1:]]; "
        "from alignvis.cli import main; main()"
    )
    for words in (["extract", "--encoder", "lowlevel", "--overwrite"], ["train", "--subject", "1", *map(str, QUICK)]):
        done = subprocess.run(
            [sys.executable, "-c", limited, "--root", str(root), "--quiet", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and "Error: " in done.stderr, done.stderr
        assert "could not be written" in done.stderr or "File too large" in done.stderr
    assert not list(root.rglob("*.partial"))


def test_help_is_quick_because_nothing_heavy_is_imported():
    code = "import sys; from alignvis.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
