import pytest
import torch

from alignvis import device
from alignvis.device import choose_device
from alignvis.processes import local_rank, processes, rank


@pytest.fixture
def stated(monkeypatch):
    def state(**values: str) -> None:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return state


def test_torchrun_says_which_process_this_is(stated):
    stated(RANK="5", LOCAL_RANK="1", WORLD_SIZE="8")
    assert (rank(), local_rank(), processes()) == (5, 1, 8)
    stated()
    assert (rank(), local_rank(), processes()) == (0, 0, 1)


@pytest.mark.parametrize(
    "values", [{"RANK": "3"}, {"RANK": "3", "WORLD_SIZE": "1"}, {"WORLD_SIZE": "many", "RANK": "x"}]
)
def test_what_was_not_meant_for_us_is_a_process_on_its_own(stated, values):
    stated(**values)
    assert (rank(), local_rank(), processes()) == (0, 0, 1)


def test_each_process_of_a_machine_takes_a_gpu_of_its_own(stated, monkeypatch):
    """There need be no GPU here: what is asked of torch is whether there is one, how many, and room for a number."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(device.torch, "zeros", lambda *_, **__: None)
    taken = []
    for local in range(5):
        stated(RANK=str(8 + local), LOCAL_RANK=str(local), WORLD_SIZE="16")
        taken.append(str(choose_device("auto")))
    assert taken == ["cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:0"]
    assert str(choose_device("cuda:2")) == "cuda:2" and str(choose_device("cpu")) == "cpu"
