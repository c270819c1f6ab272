from pathlib import Path

import pytest

from alignvis.memory import keep_freed_memory

keep_freed_memory()  # as the command line does; training in tests takes a quarter of the time


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The small real data beside the repository; a missing folder is a failure, not a reason to skip."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    assert folder.is_dir(), f"the tests read real data in place: {folder} is missing"
    return folder
