"""Several processes share the pictures through the folder alone: each part is made once, and none is lost."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alignvis import store

PICTURES, BATCH = 48, 4
PROGRAM = """
import sys, time
from pathlib import Path
from alignvis.images import embed, extract, parts
from alignvis.images.catalogue import load
from alignvis.images.embed import Pass
from alignvis.processes import rank

parts.PART = 8
extract.CHECKPOINT = 0.0
call = Pass.__call__
def slowly(self, pictures, which):
    time.sleep(float(sys.argv[3]))
    print(f"rank {rank()} embeds {len(next(iter(pictures.values())))} for {len(which)}", flush=True)
    return call(self, pictures, which)
Pass.__call__ = slowly
encoders = [load(name, Path("none"), download=False) for name in ("lowlevel", "untrained_vit")]
told = extract.extract(Path(sys.argv[1]), encoders, Path(sys.argv[2]), batch=4, layers="all", workers=1,
                       skip_bad="skip" in sys.argv)
print(f"rank {rank()} told of {len(told)} tables", flush=True)
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(PICTURES):
        Image.fromarray(draw.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    return folder


def program(folder: Path) -> Path:
    path = folder / "program.py"
    path.write_text(textwrap.dedent(PROGRAM))
    return path


def start(words: list[str], log: Path, **stated: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1])} | stated
    with open(log, "w") as file:
        return subprocess.Popen(
            [sys.executable, *words], stdout=file, stderr=file, env=environment, start_new_session=True
        )


def one_of(rank: int, count: int, images: Path, out: Path, pause: float, log: Path) -> subprocess.Popen:
    """A process as torchrun starts it on a machine of its own: nobody ends it when another one dies."""
    stated = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(count)}
    return start([str(program(log.parent)), str(images), str(out), str(pause)], log, **stated)


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def alone(images, tmp_path_factory) -> dict[str, bytes]:
    """What one process writes."""
    folder = tmp_path_factory.mktemp("alone")
    process = one_of(0, 1, images, folder / "out", 0, folder / "log")
    assert process.wait(120) == 0, (folder / "log").read_text()
    assert store.load_features(folder / "out/lowlevel.safetensors").embeddings.shape == (PICTURES, 704)
    return contents(folder / "out")


def embedded(*logs: Path) -> int:
    """Pictures that went through encoders, over all processes."""
    return sum(int(n) for log in logs for n in re.findall(r"embeds (\d+) for 2", log.read_text()))


@pytest.mark.parametrize("count", [2, 3])
def test_ranks_embed_each_picture_once_and_join_the_same_bytes(images, alone, tmp_path, count):
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), str(program(tmp_path))]
    process = start([*torchrun, str(images), str(tmp_path / "out"), "0.1"], tmp_path / "log")
    assert process.wait(240) == 0, (tmp_path / "log").read_text()
    said = (tmp_path / "log").read_text()
    assert contents(tmp_path / "out") == alone
    assert embedded(tmp_path / "log") == PICTURES
    assert len(set(re.findall(r"rank (\d) embeds", said))) == count  # all had some
    assert sorted(re.findall(r"told of (\d)", said)) == ["0"] * (count - 1) + ["2"]


def test_a_killed_rank_costs_its_part_only(images, alone, tmp_path):
    logs = [tmp_path / f"log-{rank}" for rank in range(2)]
    first, second = (one_of(rank, 2, images, tmp_path / "out", 0.2, log) for rank, log in enumerate(logs))
    deadline = time.monotonic() + 120
    while embedded(logs[1]) < 12:
        assert second.poll() is None and time.monotonic() < deadline, logs[1].read_text()
        time.sleep(0.01)
    os.kill(second.pid, signal.SIGKILL)
    assert first.wait(120) == 0, logs[0].read_text()
    second.wait()
    assert contents(tmp_path / "out") == alone
    assert embedded(*logs) <= PICTURES + 8  # what the dead one had of a part that it did not finish


def test_all_killed_and_called_again_by_one_process(images, alone, tmp_path):
    logs = [tmp_path / f"log-{rank}" for rank in range(2)]
    processes = [one_of(rank, 2, images, tmp_path / "out", 0.2, log) for rank, log in enumerate(logs)]
    deadline = time.monotonic() + 120
    while embedded(*logs) < 24:
        assert time.monotonic() < deadline, [log.read_text() for log in logs]
        time.sleep(0.01)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    last = one_of(0, 1, images, tmp_path / "out", 0, tmp_path / "log")
    assert last.wait(120) == 0, (tmp_path / "log").read_text()
    assert contents(tmp_path / "out") == alone
    assert embedded(*logs, tmp_path / "log") <= PICTURES + 2 * 8


@pytest.mark.parametrize("later", [0.0, 0.5, 1.5])
def test_the_same_command_started_twice_by_hand_is_shared(images, alone, tmp_path, later):
    """Both are the first of their own; whoever comes last to the joining finds it done."""
    logs = [tmp_path / f"log-{number}" for number in range(2)]
    processes = []
    for log in logs:
        processes.append(one_of(0, 1, images, tmp_path / "out", 0.1, log))
        time.sleep(later)
    assert [process.wait(120) for process in processes] == [0, 0], [log.read_text() for log in logs]
    assert contents(tmp_path / "out") == alone
    assert all("told of 2 tables" in log.read_text() for log in logs)


def test_a_broken_picture_is_told_by_the_first_process_alone(images, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for path in images.iterdir():
        os.link(path, folder / path.name)
    (folder / "40x.png").write_bytes(b"none")
    logs = [tmp_path / f"log-{rank}" for rank in range(2)]
    processes = [one_of(rank, 2, folder, tmp_path / "out", 0, log) for rank, log in enumerate(logs)]
    ended = [process.wait(120) for process in processes]
    assert ended == [1, 0]
    assert "AlignvisError" in logs[0].read_text() and "40x.png" in logs[0].read_text()
    assert "told of 0 tables" in logs[1].read_text()
