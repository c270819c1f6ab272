"""Damaged and hostile files: every reader ends with a result or with one sentence, whatever the bytes."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignvis.errors import AlignvisError
from tests.hostile_readers import READERS

ROOT = Path(__file__).resolve().parents[1]
COUNT = 2000
PATIENCE = 600  # seconds, against a reader that hangs; how long one takes is told by benchmarks/hostile.py
QUICK = ["tables", "nsd", "nsd-pictures", "ubp", "zeiss", "alignvis-meg", "tree", "shards", "atm", "zeiss-features"]
MEMORY = 200e6  # bytes above a file's own size


@pytest.fixture(scope="module")
def watched():
    """Each reader at work in a process of its own, as many at a time as there are cores."""

    def work(name):
        command = [sys.executable, "-m", "tests.hostile", name, str(COUNT), "0"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, env=environment, check=False
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {name: pool.submit(work, name) for name in READERS}


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_end_in_one_sentence(name, watched):
    ended = watched[name].result()
    results = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 0 and len(results) == COUNT, f"file {len(results)} ended it: {ended.stderr[-2000:]}"
    wrong = [result for result in results if result["ended"] not in ("read", "refused")]
    assert not wrong, wrong[:3]
    assert sum(result["ended"] == "refused" for result in results) > COUNT / 4  # or the damage is none
    assert max(result["above"] for result in results) <= MEMORY


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_whatever_stands_where_a_file_was_expected_ends_in_one_sentence(tmp_path_factory, data):
    """Hypothesis looks for bytes of its own: any cut, splice and edit of a whole file of a reader that is quick."""
    reader = READERS[data.draw(st.sampled_from(QUICK))]
    folder = tmp_path_factory.mktemp("damaged")
    path = data.draw(st.sampled_from(reader.build(folder)))
    whole = path.read_bytes()
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
    path.write_bytes(whole[:start] + data.draw(st.binary(max_size=64)) + whole[end:])
    try:
        reader.read(folder)
    except AlignvisError as error:
        assert "\n" not in str(error)
