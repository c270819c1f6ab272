"""The README stays true: each of its commands is run, here or by .ci/run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from alignvis import store
from alignvis.cli import main
from alignvis.images.catalogue import CATALOGUE
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
    assert len(BLOCKS) == 6, "a new block of commands needs a test of its own"


def test_without_a_dataset_the_commands_lead_from_nothing_to_a_score(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = block("alignvis simulate")
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
    prepare, extract, train, evaluate = block("alignvis prepare")
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


@pytest.mark.parametrize("line", [line for line in README.splitlines() if line.startswith("alignvis ")])
def test_every_option_that_is_named_exists(line):
    words = shlex.split(line)[1:]
    commands = [main]
    while isinstance(commands[-1], click.Group):  # some commands have commands of their own
        commands.append(commands[-1].commands[next(word for word in words if word in commands[-1].commands)])
    known = {option for command in commands for param in command.params for option in param.opts}
    assert {word for word in words if word.startswith("--")} <= known
