"""Pictures decoded by processes: what comes back, in which order, and that nothing is left behind or waits for ever."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alignvis.errors import AlignvisError
from alignvis.images import ahead, decoder
from alignvis.images.ahead import AHEAD, decode_ahead, decoders
from alignvis.images.brick import Reader
from alignvis.images.decoder import READY
from alignvis.images.pixels import GEOMETRIES, apply, decode, stamp

ROOT = Path(__file__).resolve().parents[1]
CRASHES, HANGS, PRINTS, STARVES = (f"{word} the decoder".encode() for word in ("crashes", "hangs", "prints", "starves"))
# Every Python on whose path this lies runs it at the start: a decoder that breaks as one in C does.
FAULTS = f"""
import os, signal, sys, time
print("a banner that some clusters print")
from PIL import Image
whole = Image.open
def faulty(file, *args, **options):
    data = file.getvalue()
    with open({{log!r}}, "a") as log:
        log.write("opened\\n")
    if data.endswith({CRASHES!r}):
        os.kill(os.getpid(), signal.SIGSEGV)
    if data.endswith({HANGS!r}):
        time.sleep(1000)
    if data.endswith({PRINTS!r}):
        os.write(1, b"a warning of a library in C\\n" * 100)
        print("of another", flush=True)
    if data.endswith({STARVES!r}):
        Image.Image.resize = lambda *args: 1 / 0
    return whole(file, *args, **options)
Image.open = faulty
"""


@pytest.fixture
def faults(tmp_path, monkeypatch) -> Path:
    """Decoders break on marked pictures; the file returned has a line for every picture opened."""
    folder = tmp_path / "faults"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(FAULTS.format(log=str(folder / "log")))
    monkeypatch.syspath_prepend(folder)
    return folder / "log"


def photo(path: Path, seed: int = 0, mark: bytes = b"") -> Path:
    """A small JPEG; what follows its end is ignored."""
    draw = np.random.default_rng(seed)
    height, width = draw.integers(30, 60, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    with path.open("ab") as file:
        file.write(mark)
    return path


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    return [photo(tmp_path / "photos" / f"{number:02}.jpg", number) for number in range(30)]


def batches(paths: list[Path], size: int, geometries=("lowlevel",)) -> list[tuple[list[Path], list[str]]]:
    return [(paths[start : start + size], list(geometries)) for start in range(0, len(paths), size)]


def processes_of(pid: int) -> list[int]:
    """The children that a process has, but for those that have ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(folder.name))
    return found


def wait_for(what, seconds: float = 10) -> None:
    begun = time.monotonic()
    while not what():
        assert time.monotonic() - begun < seconds, "it never came to pass"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No process, thread or open file outlives a pool."""
    count = len(os.listdir("/proc/self/fd"))
    yield
    assert processes_of(os.getpid()) == []
    assert [thread for thread in threading.enumerate() if thread.name.startswith("decoder")] == []
    assert len(os.listdir("/proc/self/fd")) == count


# --- what comes back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "size"), [(1, 30), (2, 7), (5, 2)])
def test_pixels_digests_and_stamps_are_those_of_the_files_in_order(photos, workers, size):
    with decoders(workers) as pool:
        results = list(decode_ahead(batches(photos, size, GEOMETRIES), pool, False))
    assert len(results) == -(-30 // size)
    pictures = [decode(path) for path in photos]
    for name, geometry in GEOMETRIES.items():
        found = np.concatenate([pixels[name] for pixels, _, _ in results])
        assert found.dtype == geometry.dtype
        np.testing.assert_array_equal(found, [apply(geometry, picture) for picture in pictures])
    digests = np.concatenate([digests for _, digests, _ in results])
    assert [row.tobytes() for row in digests] == [sha256(path.read_bytes()).digest() for path in photos]
    stamps = np.concatenate([stamps for _, _, stamps in results])
    assert stamps.dtype == np.int64 and stamps.tolist() == [list(stamp(path)) for path in photos]


def test_each_batch_has_its_own_geometries_and_may_be_empty(photos):
    jobs = [(photos[:3], ["clip"]), ([], ["clip"]), (photos[3:5], {"lowlevel", "squash-tf-bicubic-224"})]
    with decoders(2) as pool:
        first, none, last = (pixels for pixels, _, _ in decode_ahead(jobs, pool, False))
    assert set(first) == {"clip"} and none["clip"].shape == (0, 224, 224, 3)
    assert {name: array.shape[:2] for name, array in last.items()} == {
        "lowlevel": (2, 96), "squash-tf-bicubic-224": (2, 224),
    }  # fmt: skip


def test_one_pool_serves_many_passes_with_the_same_processes(photos):
    with decoders(1) as pool:
        assert processes_of(os.getpid()) == []  # they start when they are needed
        seen = set()
        for _ in range(3):
            list(decode_ahead(batches(photos[:4], 2), pool, False))
            seen |= set(processes_of(os.getpid()))
    assert len(seen) == 1


def test_as_many_workers_as_cores_unless_told():
    with decoders() as pool:
        assert pool.workers == len(os.sched_getaffinity(0))


def test_every_picture_is_opened_once_whatever_the_geometries(photos, faults):
    with decoders(2) as pool:
        list(decode_ahead(batches(photos, 4, GEOMETRIES), pool, False))
    assert len(faults.read_text().splitlines()) == 30


def test_names_of_any_kind_are_found(tmp_path):
    names = [
        b"a b.jpg",
        b'"quoted".jpg',
        b"new\nline.jpg",
        "ä日本😀.jpg".encode(),
        b"not utf-8 \xff.jpg",
        b"back\\.jpg",
    ]
    paths = [photo(tmp_path / os.fsdecode(name), seed) for seed, name in enumerate(names)]
    with decoders(1) as pool:
        ((pixels, _, _),) = decode_ahead([(paths, ["lowlevel"])], pool, False)
    np.testing.assert_array_equal(pixels["lowlevel"], [apply(GEOMETRIES["lowlevel"], decode(path)) for path in paths])


def test_only_some_batches_are_ahead_of_their_use(photos):
    taken, lead = [], []

    def jobs() -> Iterator:
        for number in range(200):
            taken.append(number)
            yield [photos[number % 30]] * 3, ["lowlevel"]

    for workers in (1, 6):
        taken.clear(), lead.clear()
        with decoders(workers) as pool:
            for used, _ in enumerate(decode_ahead(jobs(), pool, False), 1):
                lead.append(len(taken) - used)
        assert len(taken) == 200
        # more workers have more in hand, two pictures each, so that none of them waits
        assert max(lead) == max(AHEAD, 2 * workers // 3)


# --- bad pictures ----------------------------------------------------------------------------------------------------


@pytest.fixture
def spoilt(photos) -> list[Path]:
    photos[4].write_bytes(b"no picture")
    photos[9].unlink()
    photos[17].write_bytes(b"")
    photos[18].write_bytes(photos[18].read_bytes()[:300])
    return photos


def test_the_first_bad_picture_is_told_in_a_sentence(spoilt):
    for workers in (1, 3):
        with decoders(workers) as pool, pytest.raises(AlignvisError, match="04.jpg does not hold a picture"):
            list(decode_ahead(batches(spoilt, 30), pool, False))
    with decoders(2) as pool:
        results = decode_ahead(batches(spoilt, 2), pool, False)
        next(results), next(results)  # what comes before it is given
        with pytest.raises(AlignvisError, match="04.jpg does not hold a picture"):
            next(results)


def test_bad_pictures_can_be_skipped_and_are_black(spoilt):
    bad = [4, 9, 17, 18]
    with decoders(3) as pool:
        ((pixels, digests, stamps),) = decode_ahead([(spoilt, ["clip", "squash-tf-bicubic-224"])], pool, True)
    assert np.flatnonzero(~digests.any(axis=1)).tolist() == bad
    for array in pixels.values():
        assert np.flatnonzero(~array.any(axis=(1, 2, 3))).tolist() == bad
    assert stamps.tolist() == [list(stamp(path)) for path in spoilt]  # mending them is noticed
    assert stamps[9].tolist() == [0, 0] and stamps[4].all()
    good = [row for row in range(30) if row not in bad]
    np.testing.assert_array_equal(
        pixels["clip"][good], [apply(GEOMETRIES["clip"], decode(spoilt[row])) for row in good]
    )


# --- processes that fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_a_picture_that_kills_its_decoder_is_named_even_if_bad_ones_are_skipped(photos, faults, workers):
    photo(photos[0], 0, PRINTS)  # which explains nothing
    photo(photos[12], 12, CRASHES)
    with decoders(workers) as pool:
        with pytest.raises(
            AlignvisError, match=r"was decoding .*/12.jpg came to an end \(signal 11, Segmentation fault\); save"
        ):
            list(decode_ahead(batches(photos, 30), pool, True))
        rest = photos[:12] + photos[13:]
        assert len(list(decode_ahead(batches(rest, 5), pool, False))) == 6  # another has taken its place


def test_an_exception_that_no_one_foresaw_is_told(photos, faults):
    photo(photos[2], 2, STARVES)
    with decoders(1) as pool:
        with pytest.raises(AlignvisError, match=r"02.jpg .*exit code 1; it said: ZeroDivisionError: .*\); save that"):
            list(decode_ahead(batches(photos, 30), pool, True))


def test_what_libraries_print_does_not_come_between_the_pixels(photos, faults):
    for number in (1, 2, 7):
        photo(photos[number], number, PRINTS)
    with decoders(1) as pool:
        ((pixels, _, _),) = decode_ahead(batches(photos, 30), pool, False)
    np.testing.assert_array_equal(pixels["lowlevel"], [apply(GEOMETRIES["lowlevel"], decode(path)) for path in photos])


def test_a_decoder_that_is_killed_in_its_work_is_noticed(photos, faults):
    photo(photos[6], 6, HANGS)
    with decoders(2) as pool:
        results = decode_ahead(batches(photos, 3), pool, True)
        assert len([next(results), next(results)]) == 2
        killer = threading.Timer(0.3, lambda: [os.kill(pid, signal.SIGKILL) for pid in processes_of(os.getpid())])
        killer.start()
        with pytest.raises(AlignvisError, match=r"06.jpg came to an end \(signal 9, Killed\); .*fewer workers"):
            list(results)
        killer.join()


def test_ctrl_c_is_for_the_program_not_for_its_decoders(photos):
    with decoders(2) as pool:
        results = decode_ahead(batches(photos, 2), pool, False)
        next(results)
        for pid in processes_of(os.getpid()):
            os.kill(pid, signal.SIGINT)
        assert len(list(results)) == 14


def test_a_decoder_that_was_killed_between_two_passes_is_noticed(photos):
    with decoders(1) as pool:
        list(decode_ahead(batches(photos[:2], 2), pool, False))
        for pid in processes_of(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(AlignvisError, match="00.jpg came to an end"):
            list(decode_ahead(batches(photos[:2], 2), pool, False))
        assert len(list(decode_ahead(batches(photos[:2], 2), pool, False))) == 1


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("exec sleep 1000", r"signal 9, Killed; it may take 0.5 s"),
        ("echo no such library >&2; exit 3", "exit code 3; it said: no such library; it may"),
        ("exit 0", "exit code 0; it may"),
        (None, "No such file or directory; it may"),
    ],
)
def test_a_decoder_that_does_not_start_is_told_and_not_waited_for(photos, tmp_path, monkeypatch, script, says):
    python = tmp_path / "python"
    if script is not None:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(ahead, "START", 0.5)
    begun = time.monotonic()
    with (
        decoders(2) as pool,
        pytest.raises(AlignvisError, match=rf"decodes pictures did not start \(.*{says}.*\); free"),
    ):
        list(decode_ahead(batches(photos, 4), pool, True))
    assert time.monotonic() - begun < 60  # it ends: how fast is no matter of a test


# --- processes that are no longer wanted -----------------------------------------------------------------------------


def test_an_abandoned_pass_ends_with_its_block_whatever_is_in_work(photos, faults):
    photo(photos[8], 8, HANGS)
    begun = time.monotonic()
    with decoders(2) as pool:
        for _ in decode_ahead(batches(photos, 2), pool, False):
            break
        wait_for(lambda: len(faults.read_text().splitlines()) >= 3)
    assert time.monotonic() - begun < 60  # it ends: how fast is no matter of a test


def test_an_abandoned_pass_makes_way_for_the_next(photos, faults):
    with decoders(1) as pool:
        results = decode_ahead(batches(photos, 10), pool, False)
        next(results)
        results.close()
        ((pixels, _, _),) = decode_ahead([(photos[:3], ["lowlevel"])], pool, False)
    assert len(pixels["lowlevel"]) == 3
    assert len(faults.read_text().splitlines()) < 30  # what was not begun is not done


def test_an_exception_in_the_block_ends_the_processes(photos):
    with pytest.raises(KeyboardInterrupt), decoders(2) as pool:
        for _ in decode_ahead(batches(photos, 2), pool, False):
            raise KeyboardInterrupt


def script(folder: Path, tail: str) -> list[str]:
    """A program that decodes at its top level, as a beginner's does, and says whose process it is."""
    (folder / "program.py").write_text(f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from alignvis.images.ahead import decode_ahead, decoders
paths = sorted(Path({str(folder / "photos")!r}).iterdir())
with decoders(2) as pool:
    for pixels, _, _ in decode_ahead([(paths[:16], ["lowlevel"])] * 5000, pool, False):
        {tail}
print("done", flush=True)
""")
    return [sys.executable, str(folder / "program.py")]


def test_a_program_needs_no_guard(photos, tmp_path):
    done = subprocess.run(script(tmp_path, "break"), capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


def test_decoders_end_when_their_program_is_killed(photos, tmp_path):
    with subprocess.Popen(script(tmp_path, "print('going', flush=True)"), stdout=subprocess.PIPE) as program:
        program.stdout.readline()
        children = processes_of(program.pid)
        assert len(children) == 2
        program.kill()
    wait_for(lambda: not any(alive(pid) for pid in children))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_ctrl_c_ends_everything_with_one_traceback(photos, tmp_path):
    """A terminal sends it to the program and to the decoders alike."""
    with subprocess.Popen(
        script(tmp_path, "print('going', flush=True)"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as program:  # fmt: skip
        program.stdout.readline()
        children = processes_of(program.pid)
        os.killpg(program.pid, signal.SIGINT)
        _, errors = program.communicate(timeout=10)
    assert program.returncode == -signal.SIGINT and errors.count("Traceback") == 1
    assert errors.strip().endswith("KeyboardInterrupt")
    assert not any(alive(pid) for pid in children)


# --- the process itself ----------------------------------------------------------------------------------------------


def test_decoders_import_neither_torch_nor_what_lies_about(photos, tmp_path, monkeypatch):
    """Folders of pictures come from anywhere, and Python likes to import from where it stands."""
    strange = tmp_path / "strange"
    strange.mkdir()
    for name in ("alignvis", "PIL", "numpy", "json", "torch"):
        (strange / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r})")
    monkeypatch.chdir(strange)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(strange)]))
    with decoders(1) as pool:
        list(decode_ahead(batches(photos[:2], 2), pool, False))
        (pid,) = processes_of(os.getpid())
        maps = Path(f"/proc/{pid}/maps").read_text()
    assert not (tmp_path / "imported").exists()
    assert "libtorch" not in maps and "_imaging" in maps


def test_decoders_import_the_alignvis_that_is_running(tmp_path):
    """Not another that is installed; even if the path has changed since."""
    copy = tmp_path / "copy" / "alignvis"
    shutil.copytree(ROOT / "alignvis", copy, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "images" / "pixels.py").open("a") as file:
        file.write(f"\nopen({str(tmp_path / 'imported')!r}, 'a').write('once ')\n")
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(copy.parent)!r})
from alignvis.images.ahead import decode_ahead, decoders
del sys.path[0]
with decoders(1) as pool:
    list(decode_ahead([([Path({str(photo(tmp_path / "a.jpg"))!r})], ["lowlevel"])], pool, False))
"""
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=30)
    assert (tmp_path / "imported").read_text() == "once once "  # by the program, and by its decoder


def test_decoders_give_back_what_a_huge_picture_needed(tmp_path):
    Image.new("RGB", (8_000, 8_000)).save(tmp_path / "huge.png", compress_level=1)
    small = photo(tmp_path / "small.jpg")
    kept = []
    with decoders(1) as pool:
        for name in ("small.jpg", "huge.png", "small.jpg"):
            list(decode_ahead([([tmp_path / name], ["lowlevel"])], pool, False))
            (pid,) = processes_of(os.getpid())
            kept.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    assert small.exists() and kept[2] - kept[0] < 150e6  # of 256 MB


def test_a_file_that_changes_while_it_is_read_has_the_older_stamp(tmp_path, monkeypatch):
    """So its row is taken for outdated, not its new content for known."""
    path = photo(tmp_path / "a.jpg")
    before, data = stamp(path), path.read_bytes()
    monkeypatch.setattr(decoder, "read", lambda path: path.write_bytes(data + b"more") and data)
    answers = BytesIO()
    decoder._answer(path, [], Reader(), answers)
    assert json.loads(answers.getvalue())["stamp"] == list(before) != list(stamp(path))


def test_a_decoder_speaks_as_it_says(photos):
    command = [sys.executable, "-m", "alignvis.images.decoder"]
    request = json.dumps({"paths": [str(photos[0]), "gone.jpg"], "geometries": ["lowlevel"]}).encode()
    done = subprocess.run(command, input=request + b"\n", capture_output=True, cwd=ROOT, check=True)
    assert done.stdout.startswith(READY) and done.stderr == b""
    first, rest = done.stdout.removeprefix(READY).split(b"\n", 1)
    assert json.loads(first) == {
        "stamp": list(stamp(photos[0])), "sha256": sha256(photos[0].read_bytes()).hexdigest(),
    }  # fmt: skip
    assert rest[: 96 * 96 * 3] == apply(GEOMETRIES["lowlevel"], decode(photos[0])).tobytes()
    second = json.loads(rest[96 * 96 * 3 :])
    assert second["stamp"] == [0, 0] and second["error"].startswith("gone.jpg could not be read")
