"""The README stays true: each of its commands is run, here or by .ci/run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from alignvis import store
from alignvis.cli import main
from alignvis.images.catalogue import CATALOGUE
from alignvis.recordings.simulate_meg import simulate_things_meg
from alignvis.recordings.simulate_nsd import simulate_nsd
from tests import foreign_brains, foreign_features, raw_files
from tests.tables import planted, write_features
from tests.vit_files import adapted, as_dino, random_model, read, write

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
SMALL = ["--concepts", "16", "--test", "10", "--test-repetitions", "1", "--noise", "1"]


def run(line: str, *more: str) -> str:
    words = shlex.split(line)
    assert words[0] == "alignvis"
    result = CliRunner().invoke(main, [*words[1:], *more])
    assert result.exit_code == 0, f"{line}: {result.output}"
    return result.stdout


def block(start: str) -> list[str]:
    (found,) = [block for block in BLOCKS if block.startswith(start)]
    return found.strip().splitlines()


def test_two_commands_do_all_the_set_up_and_ci_runs_them():
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    single = [text.strip() for text in BLOCKS if text.count("\n") == 1]
    assert single == ["pip install . && alignvis demo", 'pip install -e ".[test]" && pytest']
    assert all(command in ci for command in single)
    assert len(BLOCKS) == 11, "a new block of commands needs a test of its own"


def test_without_a_dataset_the_commands_lead_from_nothing_to_a_score(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = block("alignvis simulate things-eeg2")
    more = {"simulate": SMALL, "train": ["--batch", "32", "--epochs", "1"]}
    for line in lines:
        printed = run(line, *next((words for command, words in more.items() if f" {command} " in line), []))
        if line.endswith(" eval"):
            assert "SIMULATED" in printed and "lowlevel" in printed
    (python,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(python, "README.md", "exec"), {})


def test_with_a_dataset_three_commands_without_an_option_answer_the_question(tmp_path, monkeypatch):
    """The default pair of encoders from files in the official layouts, with random weights, at its full size."""
    monkeypatch.chdir(tmp_path)
    run("alignvis --quiet simulate things-eeg2 --out .", *SMALL)
    row = CATALOGUE["dreamsim_synclr_vitb16"]
    architecture = row.branches[0].architecture
    official = as_dino(read(write(random_model(architecture), tmp_path / "hub")))
    path = tmp_path / "weights" / row.sources[0].file
    path.parent.mkdir(parents=True)
    torch.save({"model": {f"module.visual.{name}": tensor for name, tensor in official.items()}}, path)
    adapted(tmp_path / "weights" / row.adapter.file, [architecture], alpha=32.0)
    prepare, extract, train, evaluate = block("alignvis prepare things-eeg2")
    run(prepare.replace("/data/things-eeg2/raw", "raw"))
    run(extract)
    run(train)
    printed = run(evaluate)
    assert re.search(r"nice +dreamsim_synclr_vitb16 +yes", printed) and re.search(
        r"nice +dreamsim_synclr_vitb16_noalign +no", printed
    )
    table = store.load_features(tmp_path / "features/things-eeg2-simulated/dreamsim_synclr_vitb16.safetensors")
    assert [Path(file["file"]).name for file in table.document["weights"]] == [
        "synclr_vit_b_16.pth", "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip


def test_meg_fmri_and_recordings_of_ones_own_become_tables(tmp_path, monkeypatch):
    """Simulated datasets and two made-up recordings stand for the real ones; every line is run."""
    monkeypatch.chdir(tmp_path)
    simulate_things_meg(tmp_path / "meg", concepts=4, test=2, catch=1, parts=1)
    simulate_nsd(tmp_path / "nsd", sessions=4, trials_per_session=30, voxels=20, images=60, shared=10)
    volts = 1e-5 * np.random.default_rng(0).standard_normal((3, 6000))
    shown = [(0.5 + 0.2 * n, f"{'st'[n % 3 > 0]}/{n % 7}.jpg", "test" if n % 3 == 0 else "train") for n in range(100)]
    raw_files.write_brainvision(tmp_path / "run1.vhdr", volts, ["O1", "Oz", "O2"], 250.0)
    raw_files.write_edf(tmp_path / "run2.edf", volts[::-1], ["O2", "Oz", "O1"], 250.0)
    for name in ("run1.tsv", "run2.tsv"):
        raw_files.write_events(tmp_path / name, shown)
    places = {"/data/ds004212": "meg/raw", "1-4": "1", "/data/nsd/nsd_stimuli.hdf5": "nsd/images/nsd-simulated.hdf5",
              "/data/nsd": "nsd/raw", "responses/nsd/": "responses/nsd-simulated/"}  # fmt: skip
    lines = block("alignvis prepare things-meg")
    for published, here in places.items():
        lines = [line.replace(published, here) for line in lines]
    meg, fmri, extract, own, check = lines
    assert "test 2 x 12 x 271 x 201" in run(meg) and "20 x 1 (images" in run(fmri)
    assert "40 images x 704" in run(extract, "--encoder", "lowlevel")
    assert "wrote responses/mine/sub-01.safetensors" in run(own)
    told = run(check)
    assert told.count("responses of subject 1") == 3 and "fits features/nsd-simulated/lowlevel.safetensors" in told


def test_a_simulated_dataset_leads_to_a_score(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = [run(line) for line in block("alignvis simulate nsd")]
    assert "nsd-simulated (SIMULATED brain): 60 test responses" in printed[-1]


def test_files_of_other_projects_become_tables_and_tables_become_arrays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planted = foreign_brains.eeg()
    foreign_brains.images(tmp_path / "images/things-eeg2", planted)
    foreign_brains.ubp(tmp_path / "data/whiten/sub-01", foreign_brains.ubp_documents(planted))
    images = planted.ids["train"] + planted.ids["test"]
    values = foreign_features.vectors(len(images), 8)
    foreign_features.write_atm(tmp_path / "ViT-H-14_features_train.pt", values[: len(planted.ids["train"])], 6)
    foreign_features.write_atm(tmp_path / "ViT-H-14_features_test.pt", values[len(planted.ids["train"]) :], 5)
    foreign_features.write_tree(tmp_path / "data/image_embeddings", images, {"one": values, "another": 2 * values})
    lines = block("alignvis import")
    for published, here in {"/data/Preprocessed_data_250Hz_whiten": "data/whiten", "/data/": "data/"}.items():
        lines = [line.replace(published, here) for line in lines]
    brain, features, tree, export = lines
    assert "ubp, train 60 x 4 x 4 x 12" in run(brain)
    assert "65 images x 8" in run(features) and run(tree).count("65 images x 8") == 2
    assert "wrote arrays: 2 files" in run(export)
    np.testing.assert_array_equal(np.sort(np.load("arrays/embeddings.npy"), axis=0), np.sort(values, axis=0))


def test_image_encoders_are_listed_extracted_by_layers_trained_on_and_scored(tmp_path, monkeypatch, shared_data):
    """The encoders that need no weights stand for those of the README; every line is run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run("alignvis --quiet simulate things-eeg2 --out .", *SMALL)
    run("alignvis prepare things-eeg2 --raw raw --subject 1")
    names = {"dreamsim_dino_vitb16_noalign": "untrained_vit", "dreamsim_dino_vitb16": "lowlevel",
             "gLocal_clip_vit-l-14": "untrained_vit"}  # fmt: skip
    lines = block("alignvis list encoders")
    for name, other in names.items():
        lines = [line.replace(name, other) for line in lines]
    listed, extract, processes, train, score = lines
    assert all(name in run(listed) for name in names)
    assert "6 layers, blurs of 1, 3, 9 pixels" in run(extract)
    (tmp_path / "features/things-eeg2-simulated/untrained_vit.safetensors").rename(tmp_path / "kept")
    words = [sys.executable, "-m", "torch.distributed.run", *shlex.split(processes.replace("node 4", "node 2"))[1:]]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count("smallest cosine to fp32") == 1, done.stderr
    (tmp_path / "kept").rename(tmp_path / "features/things-eeg2-simulated/untrained_vit.safetensors")
    assert "target-layer.6.patches" in run(train, "--batch", "32", "--epochs", "1")
    (tmp_path / "things").symlink_to(shared_data / "things")
    result = CliRunner().invoke(main, shlex.split(score)[1:])
    # Drawn things are no concepts of THINGS, and that is said.
    assert result.exit_code == 1 and "THINGS" in result.stderr and "Traceback" not in result.output


def test_a_grid_is_one_command(tmp_path, monkeypatch):
    """Three small subjects instead of ten; every line is run, the last one in processes of its own."""
    for subject in (1, 2, 3):
        planted(tmp_path, subject=subject)
    table = store.load_features(tmp_path / "features/tiny/lowlevel.safetensors")
    for name in ("dreamsim_synclr_vitb16", "dreamsim_synclr_vitb16_noalign"):
        write_features(table.path.with_name(f"{name}.safetensors"), table.embeddings, table.images, encoder=name)
    table.path.unlink()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    brains, pairs, leave_out, processes = [
        line.replace("1-10", "1-3").replace("0-4", "0-1").replace("nproc-per-node 4", "nproc-per-node 2")
        for line in block("alignvis list brain-encoders")
    ]
    assert run(brains).count("\n") == 9
    quick = ["--batch", "32", "--epochs", "1"]
    assert run(pairs, *quick).count("best epoch") == 3 * 2 * 2
    assert run(leave_out, *quick).count("best epoch") == 3 * 2 * 2
    assert "trained on the other subjects" in run("alignvis eval")
    words = [sys.executable, "-m", "torch.distributed.run", *shlex.split(processes)[1:], *quick]
    assert shlex.split(processes)[0] == "torchrun"
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count("best epoch") == 3 * 2 * 2, done.stderr


@pytest.fixture
def twins(tmp_path, monkeypatch) -> Path:
    """Two subjects' scored runs on an aligned encoder and on its twin, and the pictures that they saw."""
    for subject in (1, 2):
        planted(tmp_path, subject=subject, tests=20)
    table = store.load_features(tmp_path / "features/tiny/lowlevel.safetensors")
    folder, name = tmp_path / "features/things-eeg2", "dreamsim_synclr_vitb16"
    blurred = table.embeddings + np.random.default_rng(0).standard_normal(table.embeddings.shape)
    twin = f"{name}_noalign"
    write_features(
        folder / f"{name}.safetensors", table.embeddings, table.images, encoder=name, aligned=True, twin=twin
    )
    write_features(folder / f"{twin}.safetensors", blurred, table.images, encoder=twin)
    table.path.unlink()
    for place, image in enumerate(table.images):
        path = tmp_path / "images/tiny" / image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (place % 256, 100, 200)).save(path)
    monkeypatch.chdir(tmp_path)
    run("alignvis train --subject 1-2 --batch 32 --epochs 2 --rate 0.002")
    return tmp_path


def test_scores_are_compared_and_become_a_page(twins):
    evaluate, compare, report = block("alignvis eval --full")
    printed = run(evaluate)
    assert "SIMULATED" in printed and "TRANSDUCTIVE" in printed and "committee" in printed
    assert "Holm" in run(compare)
    run(report)
    page = (twins / "report.html").read_text(encoding="utf-8")
    assert "SIMULATED" in page and "<script" not in page


def test_explanations_are_drawn_and_galleries_searched(twins):
    run("alignvis eval")
    name = next(path.name for path in sorted((twins / "runs").glob("*")) if "noalign" not in path.name)
    for line in block("alignvis explain"):
        run(line.replace("RUN", name))
    made = {path.name for path in (twins / "results").rglob("*") if path.is_file()}
    assert {f"explain_{name}.png", f"show_{name}.png"} <= made and any(one.startswith("rsa_") for one in made)
    assert any(one.startswith("enc") for one in made) and any("search" in path.name for path in twins.rglob("search_*"))


@pytest.mark.parametrize("line", [line for line in README.splitlines() if line.startswith("alignvis ")])
def test_every_option_that_is_named_exists(line):
    words = shlex.split(line)[1:]
    commands = [main]
    while isinstance(commands[-1], click.Group):  # some commands have commands of their own
        commands.append(commands[-1].commands[next(word for word in words if word in commands[-1].commands)])
    known = {option for command in commands for param in command.params for option in param.opts}
    assert {word for word in words if word.startswith("--")} <= known
