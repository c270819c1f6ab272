"""Several processes share a list of runs through the folder alone: each run is trained once, and none is lost."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from alignvis.runs import read_record
from tests.tables import planted

TRAIN = ("train", "--subject", "1-3", "--seed", "0-1", "--encoder", "linear", "--batch", "32", "--device", "cpu")
RUNS = 6


@pytest.fixture
def root(tmp_path) -> Path:
    for subject in (1, 2, 3):
        planted(tmp_path, subject=subject)
    return tmp_path


def command(root: Path, epochs: int) -> list[str]:
    return ["-m", "alignvis", "--root", str(root), "-v", *TRAIN, "--epochs", str(epochs)]


class Process:
    """A process whose output goes to a file, as nobody reads it while it works."""

    def __init__(self, words: list[str], log: Path, **stated: str) -> None:
        self.log = log
        with open(log, "w") as file:
            environment = os.environ | {"OMP_NUM_THREADS": "1"} | stated
            self.started = subprocess.Popen(words, stdout=file, stderr=file, env=environment, start_new_session=True)

    def said(self) -> str:
        return self.log.read_text()

    def end(self) -> int:
        return self.started.wait(timeout=300)

    def until(self, condition) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert self.started.poll() is None and time.monotonic() < deadline, self.said()
            time.sleep(0.01)


def torchrun(root: Path, processes: int, epochs: int, log: str = "log") -> Process:
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    return Process([*start, *command(root, epochs)], root / log)


def one_of(root: Path, rank: int, processes: int, epochs: int) -> Process:
    """A process as torchrun starts it, on a machine of its own: nobody ends it when another one dies."""
    stated = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(processes)}
    return Process([sys.executable, *command(root, epochs)], root / f"log-{rank}", **stated)


def begun(*said: str) -> Counter[str]:
    """How often the first epoch of each run was trained."""
    return Counter(re.findall(r"^(\S+) epoch 1: ", "\n".join(said), re.MULTILINE))


def whole_runs(root: Path) -> dict[str, str]:
    return {path.parent.name: read_record(path.parent)["weights_sha256"] for path in root.glob("runs/*/record.json")}


@pytest.mark.parametrize("processes", [2, 3])
def test_ranks_train_each_run_once_and_as_one_process_does(root, tmp_path_factory, processes):
    ranks = torchrun(root, processes, 3)
    assert ranks.end() == 0, ranks.said()
    assert sorted(begun(ranks.said()).values()) == [1] * RUNS
    assert ranks.said().count("best epoch") == RUNS  # one process tells of all runs
    assert ranks.said().count("next: alignvis") == 1
    alone = tmp_path_factory.mktemp("alone")
    for folder in ("responses", "features"):
        (alone / folder).symlink_to(root / folder)
    assert Process([sys.executable, *command(alone, 3)], alone / "log").end() == 0
    assert whole_runs(alone) == whole_runs(root) and len(whole_runs(root)) == RUNS


def test_the_runs_of_a_rank_that_dies_are_done_by_the_first(root):
    first, second, third = ranks = [one_of(root, rank, 3, 100) for rank in range(3)]
    second.until(lambda: " epoch 1: " in second.said())  # it has taken a run
    second.started.kill()
    assert [rank.end() for rank in ranks] == [0, -signal.SIGKILL, 0], [rank.said() for rank in ranks]
    lost, others = begun(second.said()), begun(first.said(), third.said())
    assert len(whole_runs(root)) == len(others | lost) == RUNS
    assert set(others.values()) == {1}
    assert all(path.is_dir() for path in (root / "runs").iterdir())  # no lock and nothing unfinished is left


def test_torchrun_that_is_killed_and_called_again_keeps_what_was_finished(root):
    ranks = torchrun(root, 2, 100)
    ranks.until(lambda: whole_runs(root))
    os.killpg(ranks.started.pid, signal.SIGKILL)
    for pid in workers_of(root):
        os.kill(pid, signal.SIGKILL)
    ranks.end()
    kept = {path: path.stat().st_mtime_ns for path in root.glob("runs/*/record.json")}
    assert 0 < len(kept) < RUNS
    again = torchrun(root, 2, 100, "again")
    assert again.end() == 0, again.said()
    assert len(whole_runs(root)) == RUNS
    assert all(path.stat().st_mtime_ns == changed for path, changed in kept.items())
    assert len(begun(again.said())) == RUNS - len(kept)


def workers_of(root: Path) -> list[int]:
    """Processes whose command line names this root: torchrun starts each worker in a session of its own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(root).encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found
