from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The small real data beside the repository; a missing folder is a failure, not a reason to skip."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    assert folder.is_dir(), f"the tests read real data in place: {folder} is missing"
    return folder
