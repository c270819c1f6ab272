import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from transformers import BitImageProcessorPil, CLIPImageProcessorPil, ViTImageProcessorPil

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.images import ahead, extract, parts
from alignvis.images.catalogue import load
from alignvis.images.encoder import Branch, ImageEncoder, Network, Row, build
from alignvis.images.extract import extract as run
from alignvis.images.pixels import GEOMETRIES, apply, decode
from alignvis.images.vit import Architecture

TINY = Architecture(32, 64, 2, 2, 7)
NAMES = ["b/2.png", "b/10.jpg", "a/x.webp", "a-x.bmp", "ä/ö.png", "日本/猫 1.JPG", "z.tiff", "a/y.jpeg", "b/3.png",
         "b/3 copy.png", "B.png"]  # fmt: skip
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def row(name: str, geometry: str, dim: int, aligned: bool = False, *branches: Branch) -> Row:
    return Row(name, "none", aligned, dim, geometry, branches, "MIT", "none")


class Body(nn.Module):
    """A stand-in network: a small random projection of the pixels, which notes how many pictures it was shown."""

    def __init__(self, side: int, dim: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.GELU(), nn.Flatten(), nn.LazyLinear(dim)).eval()
        self.features(torch.zeros(1, 3, side, side))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
        self.sizes: list[int] = []

    def forward(self, pixels: Tensor) -> Tensor:
        self.sizes.append(len(pixels))
        return self.features(pixels)


class Sketch(ImageEncoder):
    """A stand-in encoder of any geometry."""

    def __init__(self, name: str, geometry: str, dim: int = 5, seed: int = 0, body: type[Body] = Body) -> None:
        network = Network(body(GEOMETRIES[geometry].crop, dim, seed), None)
        about = row(name, geometry, dim, seed == 0, Branch(TINY, (), HALF))
        super().__init__(about, [network], None, [{"file": f"{name}.pt", "sha256": "ab" * 32}])
        self.sizes = network.body.sizes


def three() -> list[Sketch]:
    return [Sketch("one", "clip"), Sketch("two", "squash-bilinear-224", seed=1), Sketch("three", "clip", 3, seed=2)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Eleven pictures of many shapes, kinds and places; one twice."""
    folder = tmp_path_factory.mktemp("data") / "tiny set"
    draw = np.random.default_rng(0)
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = (int(edge) for edge in draw.integers(40, 260, 2))
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    shutil.copy(folder / "b/3.png", folder / "b/3 copy.png")
    (folder / ".hidden.png").write_bytes(b"not a picture")
    (folder / "simulated.json").write_text('{"simulated": true, "seed": 0}')
    (folder / "image_metadata.npy").write_bytes(b"none of our business")
    return folder


@pytest.fixture
def copy(pictures, tmp_path) -> Path:
    return Path(shutil.copytree(pictures, tmp_path / "tiny set"))


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory) -> dict[str, bytes]:
    """What an uninterrupted call with all encoders writes, batches of four."""
    out = tmp_path_factory.mktemp("whole")
    run(pictures, three(), out, batch=4)
    return contents(out)


def contents(out: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    # without the name of a making's folder
    names = [re.sub(r"\.parts/[0-9a-f]{12}/", ".parts/", path.relative_to(out).as_posix()) for path in files]
    return {name: path.read_bytes() for name, path in zip(names, files, strict=True)}


def watch(monkeypatch) -> list[tuple[Path, set[str]]]:
    """Note every picture that is asked for, with the geometries it is brought into."""
    asked: list[tuple[Path, set[str]]] = []

    def watched(jobs, pool, skip_bad):
        def noted():
            for paths, geometries in jobs:
                asked.extend((path, set(geometries)) for path in paths)
                yield paths, geometries

        return ahead.decode_ahead(noted(), pool, skip_bad)

    monkeypatch.setattr(extract, "decode_ahead", watched)
    return asked


def stop_after(count: int, error: type[BaseException] = KeyboardInterrupt):
    calls = 0

    def progress(done: int, total: int, text: str, note: str = "") -> None:
        nonlocal calls
        calls += text.startswith("embedding")
        if calls == count:
            raise error

    return progress


# --- what is written -------------------------------------------------------------------------------------------------


def test_each_row_is_its_picture(pictures, tmp_path):
    encoder = Sketch("one", "hf-clip")
    (told,) = run(pictures, [encoder], tmp_path, batch=4)
    table = store.load_features(tmp_path / "one.safetensors")
    path = tmp_path / "one.safetensors"
    assert told == {
        "encoder": "one", "table": str(path), "images": 11, "dim": 5, "layers": [], "blur": [], "kept": False,
        "skipped": [], "bf16_cosine": None,
    }  # fmt: skip
    digests = store.read_table(table.path, "features", {"images.sha256": ("U8", 2)})[1]["images.sha256"]
    assert [image.encode() for image in table.images] == sorted(image.encode() for image in table.images)
    for row, image in enumerate(table.images):
        array = apply(GEOMETRIES["hf-clip"], decode(pictures / image))
        pixels = torch.from_numpy(array).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            expected = encoder(pixels[None])[0].numpy()
        np.testing.assert_allclose(table.embeddings[row], expected, rtol=1e-4, atol=1e-5, err_msg=image)
        assert digests[row].tobytes() == sha256((pictures / image).read_bytes()).digest()
    twin = [table.images.index(name) for name in ("b/3.png", "b/3 copy.png")]
    np.testing.assert_allclose(*table.embeddings[twin], rtol=1e-4, atol=1e-5)
    assert len(np.unique(table.embeddings.round(3), axis=0)) == 10


def test_the_header_says_how_it_was_made(pictures, tmp_path):
    (told,) = run(pictures, [Sketch("one", "clip")], tmp_path, batch=4, precision="bf16")
    document = store.read_document(tmp_path / "one.safetensors", "features")
    versions = document.pop("versions")
    assert set(versions) == {"alignvis", "torch", "pillow", "numpy"} and versions["torch"] == torch.__version__
    assert len(document.pop("images")) == 11
    assert 0.999 < document["bf16_cosine"] < 1 and told["bf16_cosine"] == document.pop("bf16_cosine")
    assert document == {
        "version": 1, "table": "features", "image_set": "tiny set", "simulated": True, "encoder": "one",
        "aligned": True, "twin": None, "dim": 5, "weights": [{"file": "one.pt", "sha256": "ab" * 32}],
        "layers": [], "blur": [], "precision": "bf16", "batch": 4, "device": "cpu", "skipped": [],
        "preprocessing": {"geometry": "clip", "fit": "shortest", "size": 224, "resampling": "bicubic", "crop": 224,
                          "rounding": "half-even", "statistics": [[[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]]},
    }  # fmt: skip


def test_only_a_mark_that_says_so_makes_pictures_simulated(copy, tmp_path):
    for text, simulated in (('{"simulated": true}', True), ('{"simulated": false}', False), ("[]", False)):
        (copy / "simulated.json").write_text(text)
        run(copy, [Sketch("one", "clip")], tmp_path / "out", overwrite=True)
        assert store.read_document(tmp_path / "out/one.safetensors")["simulated"] is simulated
    (copy / "simulated.json").unlink()
    run(copy, [Sketch("one", "clip")], tmp_path / "out", overwrite=True)
    assert store.read_document(tmp_path / "out/one.safetensors")["simulated"] is False


def test_one_pass_writes_what_separate_passes_write(pictures, whole, tmp_path):
    for encoder in three():
        run(pictures, [encoder], tmp_path, batch=4, workers=1)
    assert contents(tmp_path) == whole


def test_the_order_of_encoders_and_threads_does_not_matter(pictures, whole, tmp_path):
    told = run(pictures, three()[::-1], tmp_path, batch=4, workers=7)
    assert [row["encoder"] for row in told] == ["three", "two", "one"]
    assert contents(tmp_path) == whole


def test_every_picture_is_asked_for_once_in_every_geometry_that_someone_needs(pictures, tmp_path, monkeypatch):
    asked = watch(monkeypatch)
    encoders = three()
    run(pictures, encoders, tmp_path, batch=4)
    assert len(asked) == len({path for path, _ in asked}) == 11
    assert all(geometries == {"clip", "squash-bilinear-224"} for _, geometries in asked)
    assert [encoder.sizes for encoder in encoders] == [[4, 4, 3]] * 3


def test_encoders_are_run_for_inference(pictures, tmp_path):
    class Strict(Body):
        def forward(self, pixels: Tensor) -> Tensor:
            assert not self.training and torch.is_inference_mode_enabled()
            assert pixels.dtype == torch.float32 and pixels.shape[1:] == (3, 224, 224) and pixels.is_contiguous()
            assert 0 <= pixels.min() and 0.9 < pixels.max() <= 1
            return self.features(pixels)

    run(pictures, [Sketch("one", "clip", body=Strict).train()], tmp_path)


def test_half_precision_is_near_and_not_the_same(pictures, tmp_path):
    full, half = tmp_path / "full", tmp_path / "half"
    run(pictures, [Sketch("one", "clip")], full)
    run(pictures, [Sketch("one", "clip")], half, precision="bf16", device="auto")
    one, two = (store.load_features(out / "one.safetensors").embeddings for out in (full, half))
    assert not np.array_equal(one, two)
    np.testing.assert_allclose(one, two, atol=0.05)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_real_photographs_through_every_geometry(shared_data, tmp_path, geometry):
    run(shared_data / "photos", [Sketch("one", geometry)], tmp_path, batch=3)
    table = store.load_features(tmp_path / "one.safetensors")
    assert table.embeddings.shape == (8, 5) and table.document["image_set"] == "photos"
    assert table.document["preprocessing"]["geometry"] == geometry


# --- interrupted and continued ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_call_is_continued_to_the_same_bytes(pictures, whole, tmp_path, after, error, monkeypatch):
    with pytest.raises(error):
        run(pictures, three(), tmp_path, batch=4, progress=stop_after(after, error))
    # The batch that was on the device when the one before it was put away is put away too.
    end = ".partial" if after == 1 else ""
    assert sorted(contents(tmp_path)) == [
        f"{name}.safetensors.parts/000000000{end}" for name in ("one", "three", "two")
    ]
    decoded = watch(monkeypatch)
    encoders = three()
    run(pictures, encoders, tmp_path, batch=4)
    assert contents(tmp_path) == whole
    left = [4, 4, 3][after + 1 :]  # what was done is not done again
    assert [encoder.sizes for encoder in encoders] == [left] * 3 and len(decoded) == sum(left)


def test_encoders_interrupted_at_different_places_share_what_is_left(pictures, tmp_path):
    for encoder, after in zip(three(), (1, 3, 5), strict=True):
        with pytest.raises(KeyboardInterrupt):
            run(pictures, [encoder], tmp_path / "out", batch=2, progress=stop_after(after))
        run(pictures, [encoder], tmp_path / "whole", batch=2)
    encoders = three()
    run(pictures, encoders, tmp_path / "out", batch=2)
    assert [sum(encoder.sizes) for encoder in encoders] == [7, 3, 0]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_interruption_inside_a_batch_loses_that_batch_only(pictures, whole, tmp_path):
    class Stops(Body):
        def forward(self, pixels: Tensor) -> Tensor:
            if len(self.sizes) == 1:
                raise KeyboardInterrupt
            return super().forward(pixels)

    encoders = [three()[0], Sketch("two", "squash-bilinear-224", seed=1, body=Stops), three()[2]]
    with pytest.raises(KeyboardInterrupt):
        run(pictures, encoders, tmp_path, batch=4)
    encoders = three()
    run(pictures, encoders, tmp_path, batch=4)
    assert [sum(encoder.sizes) for encoder in encoders] == [7, 7, 7]
    assert contents(tmp_path) == whole


def test_a_killed_process_is_continued_to_the_same_bytes(pictures, whole, tmp_path):
    program = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from alignvis.images import extract
        from tests.test_extract import three
        extract.CHECKPOINT = 0.0
        def progress(done, total, text, note=""):
            if text.startswith("embedding") and done == 8:
                os.kill(os.getpid(), signal.SIGKILL)
        extract.extract(Path({str(pictures)!r}), three(), Path({str(tmp_path)!r}), batch=4, progress=progress)
    """)
    root = Path(__file__).resolve().parents[1]
    ended = subprocess.run([sys.executable, "-c", program], cwd=root)
    assert ended.returncode == -signal.SIGKILL
    assert contents(tmp_path) and all(name.endswith(".partial") for name in contents(tmp_path))
    encoders = three()
    run(pictures, encoders, tmp_path, batch=4)
    assert contents(tmp_path) == whole
    assert [sum(encoder.sizes) for encoder in encoders] == [7, 7, 7]  # the second batch was not yet on the disk


def test_embeddings_reach_the_disk_before_the_digests_that_vouch_for_them(pictures, tmp_path, monkeypatch):
    flushed = []
    flush = np.memmap.flush
    monkeypatch.setattr(
        np.memmap, "flush", lambda self: flushed.append((self.shape[1], bool(self.any()))) or flush(self)
    )
    monkeypatch.setattr(extract, "CHECKPOINT", 0.0)
    run(pictures, [Sketch("one", "clip")], tmp_path, batch=4)
    assert flushed[:9] == [(5, True), (32, True), (2, True)] * 3


def test_a_picture_that_changed_in_between_is_embedded_again(copy, tmp_path):
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    with pytest.raises(KeyboardInterrupt):
        run(copy, three(), out, batch=4, progress=stop_after(1))
    before = (copy / "a/x.webp").stat()
    Image.new("RGB", (50, 60), (200, 30, 90)).save(copy / "a/x.webp")
    os.utime(copy / "a/x.webp", (before.st_atime, before.st_mtime))  # even if its date does not tell
    encoders = three()
    run(copy, encoders, out, batch=4)
    assert [encoder.sizes for encoder in encoders] == [[4, 3]] * 3
    run(copy, three(), fresh, batch=4)
    assert contents(out) == contents(fresh)


def test_another_making_does_not_continue(pictures, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(pictures, [Sketch("one", "clip")], tmp_path, batch=4, progress=stop_after(2))
    other = Sketch("one", "clip")
    other.provenance = [{"file": "one.pt", "sha256": "cd" * 32}]
    run(pictures, [other], tmp_path, batch=4)
    assert sum(other.sizes) == 11
    assert store.read_document(tmp_path / "one.safetensors")["weights"] == other.provenance


# --- tables that are there -------------------------------------------------------------------------------------------


def test_a_whole_table_is_kept_and_told(pictures, whole, tmp_path):
    run(pictures, three()[:2], tmp_path, batch=4)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    encoders = three()
    told = run(pictures, encoders, tmp_path, batch=4)
    assert [row["kept"] for row in told] == [True, True, False]
    assert [sum(encoder.sizes) for encoder in encoders] == [0, 0, 11]
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert contents(tmp_path) == whole
    # another batch size moves embeddings by rounding only
    assert all(row["kept"] for row in run(pictures, three(), tmp_path, batch=7))


def test_a_table_of_another_making_is_refused_without_overwrite(pictures, tmp_path):
    run(pictures, [Sketch("one", "clip")], tmp_path)
    before = contents(tmp_path)
    for encoder, what in ((Sketch("one", "hf-clip"), "preprocessing"), (Sketch("one", "clip", 6), "dim")):
        with pytest.raises(
            AlignvisError, match=rf"one.safetensors is a table of another making \(it differs in: {what}\)"
        ):
            run(pictures, [encoder], tmp_path)
    with pytest.raises(AlignvisError, match="differs in: precision"):
        run(pictures, [Sketch("one", "clip")], tmp_path, precision="bf16")
    assert contents(tmp_path) == before
    (told,) = run(pictures, [Sketch("one", "clip", 6)], tmp_path, overwrite=True)
    assert told["dim"] == 6 and not told["kept"] and list(contents(tmp_path)) == ["one.safetensors"]


def test_the_old_table_stands_until_the_new_one_is_whole(pictures, tmp_path):
    run(pictures, [Sketch("one", "clip")], tmp_path, batch=4)
    before = contents(tmp_path)["one.safetensors"]
    with pytest.raises(KeyboardInterrupt):
        run(pictures, [Sketch("one", "clip", 6)], tmp_path, batch=4, overwrite=True, progress=stop_after(3))
    assert contents(tmp_path)["one.safetensors"] == before


def test_a_whole_table_of_changed_pictures_is_refused(copy, tmp_path):
    run(copy, [Sketch("one", "clip")], tmp_path / "out")
    Image.new("RGB", (50, 60)).save(copy / "b/10.jpg")
    with pytest.raises(
        AlignvisError, match=r"1 pictures of .*tiny set are not what they were .*the first is 'b/10.jpg'"
    ):
        run(copy, [Sketch("one", "clip")], tmp_path / "out")
    (copy / "b/10.jpg").unlink()
    with pytest.raises(AlignvisError, match="differs in: images"):
        run(copy, [Sketch("one", "clip")], tmp_path / "out")


def test_a_damaged_table_is_refused(pictures, tmp_path):
    run(pictures, [Sketch("one", "clip")], tmp_path)
    path = tmp_path / "one.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-50])
    with pytest.raises(AlignvisError, match="truncated"):
        run(pictures, [Sketch("one", "clip")], tmp_path)
    short = {"embeddings": np.ones((11, 5), "f4"), "images.sha256": np.ones((9, 32), "u1")}
    path.write_bytes(data)
    store.write_table(path, short, store.read_document(path))
    with pytest.raises(AlignvisError, match="does not have one digest per picture"):
        run(pictures, [Sketch("one", "clip")], tmp_path)


# --- broken pictures -------------------------------------------------------------------------------------------------


BROKEN = {
    "a/cut.jpg": lambda folder: (folder / "b/10.jpg").read_bytes()[:-900],
    "b/page.png": lambda folder: b"<html>404</html>",
    "b/zero.webp": lambda folder: b"",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_stops_with_its_path_and_nothing_is_lost(copy, tmp_path, name):
    (copy / name).write_bytes(BROKEN[name](copy))
    with pytest.raises(AlignvisError, match=name):
        run(copy, [Sketch("one", "clip")], tmp_path / "out", batch=2)
    assert list(contents(tmp_path / "out")) == ["one.safetensors.parts/000000000.partial"]
    Image.new("RGB", (70, 50), (9, 80, 200)).save(copy / name)
    encoder = Sketch("one", "clip")
    run(copy, [encoder], tmp_path / "out", batch=2)
    assert sum(encoder.sizes) < 12  # batches before it were kept
    run(copy, [Sketch("one", "clip")], tmp_path / "fresh", batch=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_broken_pictures_can_be_left_out(copy, tmp_path):
    clean = tmp_path / "clean"
    run(copy, three(), clean, batch=4)
    for name, content in BROKEN.items():
        (copy / name).write_bytes(content(copy))
    told = run(copy, three(), tmp_path / "out", batch=4, skip_bad=True)
    assert [(row["images"], row["skipped"]) for row in told] == [(11, sorted(BROKEN))] * 3
    assert sorted(contents(tmp_path / "out")) == ["one.safetensors", "three.safetensors", "two.safetensors"]
    for name in contents(clean):
        one, two = store.load_features(clean / name), store.load_features(tmp_path / "out" / name)
        assert one.images == two.images and two.document["skipped"] == sorted(BROKEN)
        np.testing.assert_allclose(one.embeddings, two.embeddings, rtol=1e-4, atol=1e-5)
    # and the same again, interrupted
    with pytest.raises(KeyboardInterrupt):
        run(copy, three(), tmp_path / "again", batch=4, skip_bad=True, progress=stop_after(2))
    run(copy, three(), tmp_path / "again", batch=4, skip_bad=True)
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


def test_a_table_that_left_pictures_out_is_kept_only_if_that_is_asked_for(copy, tmp_path):
    (copy / "a/cut.jpg").write_bytes(BROKEN["a/cut.jpg"](copy))
    run(copy, [Sketch("one", "clip")], tmp_path / "out", skip_bad=True)
    encoder = Sketch("one", "clip")
    (told,) = run(copy, [encoder], tmp_path / "out", skip_bad=True)
    assert told["kept"] and told["skipped"] == ["a/cut.jpg"] and encoder.sizes == []
    with pytest.raises(AlignvisError, match="another making .*images, skipped"):
        run(copy, [Sketch("one", "clip")], tmp_path / "out")


def test_without_a_good_picture_there_is_no_table(tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"text")
    with pytest.raises(AlignvisError, match="none of the pictures of bad can be read"):
        run(folder, three(), tmp_path / "out", skip_bad=True)
    assert contents(tmp_path / "out") == {}


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_nothing_behind(pictures, tmp_path, monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
        with pytest.raises(
            AlignvisError,
            match=r"one.safetensors.parts/\w+/000000000 needs .* MB and could not be written \(File too large\)",
        ):
            run(pictures, three(), tmp_path / "small")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path / "small") == {}

    allocate, calls = os.posix_fallocate, []

    def full_at_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(*arguments)

    monkeypatch.setattr(os, "posix_fallocate", full_at_the_third)
    with pytest.raises(
        AlignvisError, match=r"three.safetensors.parts/\w+/000000000 needs .* \(No space left on device\)"
    ):
        run(pictures, three(), tmp_path / "full")
    assert contents(tmp_path / "full") == {}


def test_a_full_disk_does_not_cost_what_was_done(pictures, whole, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        run(pictures, three()[:1], tmp_path, batch=4, progress=stop_after(1))

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(AlignvisError, match=r"two.safetensors.parts/\w+/000000000 needs"):
            run(pictures, three(), tmp_path, batch=4)
    encoders = three()
    run(pictures, encoders, tmp_path, batch=4)
    assert sum(encoders[0].sizes) == 3 and contents(tmp_path) == whole


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch": 0}, "batch 0"),
        ({"workers": -1}, "-1 workers"),
        ({"precision": "fp8"}, "precision 'fp8'"),
        ({"device": "cuda:99"}, "the device 'cuda:99' cannot be used here"),
        ({"device": "banana"}, "the device 'banana' cannot be used here"),
    ],
)
def test_impossible_wishes_are_refused(pictures, tmp_path, options, says):
    with pytest.raises(AlignvisError, match=says) as caught:
        run(pictures, three(), tmp_path / "out", **options)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_an_encoder_can_be_named_once(pictures, tmp_path):
    with pytest.raises(AlignvisError, match="encoders one, one.*may be named once"):
        run(pictures, [Sketch("one", "clip"), Sketch("one", "clip")], tmp_path)


def test_a_file_in_place_of_a_folder_is_refused(pictures, tmp_path):
    (tmp_path / "file").write_text("")
    for images, out, says in (
        (tmp_path / "gone", tmp_path / "out", "gone is missing"),
        (tmp_path / "file", tmp_path / "out", "file is a file"),
        (pictures, tmp_path / "file", "file cannot hold tables"),
        (pictures, tmp_path / "file/below", "below cannot hold tables"),
    ):
        with pytest.raises(AlignvisError, match=says):
            run(images, three(), out)


@pytest.mark.parametrize(
    ("yields", "says"),
    [(float("nan"), "one yields numbers that are not finite for 'ä/ö.png'"), (float("inf"), "not finite")],
)
def test_numbers_that_are_not_finite_stop_the_pass(pictures, tmp_path, yields, says):
    class Broken(Body):
        def forward(self, pixels: Tensor) -> Tensor:
            out = super().forward(pixels).clone()
            if len(self.sizes) == 3:
                out[1, 2] = yields
            return out

    with pytest.raises(AlignvisError, match=says):
        run(pictures, [Sketch("one", "clip", body=Broken)], tmp_path, batch=4)
    assert list(contents(tmp_path)) == ["one.safetensors.parts/000000000.partial"]


def test_too_large_a_batch_is_said(pictures, tmp_path):
    class Hungry(Body):
        def forward(self, pixels: Tensor) -> Tensor:
            raise torch.OutOfMemoryError

    with pytest.raises(AlignvisError, match="ran out of memory on 4 pictures at a time; choose a smaller --batch"):
        run(pictures, [Sketch("one", "clip", body=Hungry)], tmp_path, batch=4)


# --- how it runs -----------------------------------------------------------------------------------------------------


def test_progress_counts_pictures_and_goes_on_where_it_stopped(pictures, tmp_path):
    said = []
    with pytest.raises(KeyboardInterrupt):
        run(pictures, three(), tmp_path, batch=3, progress=stop_after(1))
    run(pictures, three(), tmp_path, batch=3, progress=lambda *words: said.append(words))
    assert [words[:2] for words in said] == [(9, 11), (11, 11)]


def test_only_a_few_batches_are_ahead(tmp_path, monkeypatch):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(60):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(folder / f"{number:02}.png")
    started, lead = watch(monkeypatch), []

    class Slow(Body):
        def forward(self, pixels: Tensor) -> Tensor:
            lead.append(len(started) - 5 * len(self.sizes))
            return super().forward(pixels)

    run(folder, [Sketch("one", "lowlevel", body=Slow)], tmp_path / "out", batch=5)
    assert max(lead) <= 5 * (ahead.AHEAD + 1)


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    picture = tmp_path / "p.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(picture)
    peaks = []
    for count in (40, 160):
        folder = tmp_path / f"set{count}"
        folder.mkdir()
        for number in range(count):
            os.link(picture, folder / f"{number:03}.png")
        tracemalloc.start()
        run(folder, [Sketch("one", "lowlevel")], tmp_path / f"out{count}", batch=8, workers=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    one_batch = 8 * 96 * 96 * 3
    assert peaks[1] < peaks[0] + one_batch


# --- the encoders of the catalogue -----------------------------------------------------------------------------------


def test_the_encoders_that_need_no_download(shared_data, tmp_path):
    encoders = [load(name, tmp_path, download=False) for name in ("lowlevel", "untrained_vit")]
    run(shared_data / "photos", encoders, tmp_path, batch=5)
    for encoder in encoders:
        table = store.load_features(tmp_path / f"{encoder.row.id}.safetensors")
        assert table.embeddings.shape == (8, encoder.row.dim) and not table.document["aligned"]
        centred = table.embeddings - table.embeddings.mean(1, keepdims=True)
        centred /= np.linalg.norm(centred, axis=1, keepdims=True)
        assert np.abs(centred @ centred.T - np.eye(8)).max() < 0.9999  # photographs are told apart
    again = [load(name, tmp_path, download=False) for name in ("lowlevel", "untrained_vit")]
    run(shared_data / "photos", again, tmp_path / "again", batch=5)
    for encoder in again:
        name = f"{encoder.row.id}.safetensors"
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
SQUARE = {"height": 224, "width": 224}
FAMILIES = {  # architecture, geometry, statistics, and the published processor
    "CLIP": (
        replace(TINY, activation="quick_gelu", eps=1e-5, ln_pre=True, output="projected", projection=24),
        "hf-clip", CLIP, CLIPImageProcessorPil(),
    ),
    "DINO": (
        TINY, "squash-bilinear-224", IMAGENET,
        ViTImageProcessorPil(size=SQUARE, resample=2, image_mean=IMAGENET[0], image_std=IMAGENET[1]),
    ),
    "DINOv2": (
        replace(TINY, patch=14, grid=37, layer_scale=True, resize="offset"), "bicubic-256-crop-224", IMAGENET,
        BitImageProcessorPil(
            size={"shortest_edge": 256}, crop_size=SQUARE, resample=3, image_mean=IMAGENET[0], image_std=IMAGENET[1]
        ),
    ),
    "DreamSim": (
        replace(TINY, output="prenorm"), "squash-bicubic-224", IMAGENET,
        ViTImageProcessorPil(size=SQUARE, resample=3, image_mean=IMAGENET[0], image_std=IMAGENET[1]),
    ),
}  # fmt: skip


def test_four_families_see_what_their_published_processors_show(shared_data, tmp_path):
    photos = sorted((shared_data / "photos").glob("*.jpg"))
    encoders = []
    for name, (architecture, geometry, (mean, std), _) in FAMILIES.items():
        branch = Branch(architecture, (), (tuple(mean), tuple(std)))
        encoders.append(build(row(name, geometry, architecture.dim, False, branch), tmp_path))
    run(shared_data / "photos", encoders, tmp_path, batch=3)
    for encoder in encoders:
        *_, processor = FAMILIES[encoder.row.id]
        table = store.load_features(tmp_path / f"{encoder.row.id}.safetensors")
        assert table.images == [photo.name for photo in photos]
        for photo, embedding in zip(photos, table.embeddings, strict=True):
            with Image.open(photo) as picture:
                pixels = torch.tensor(processor(picture, return_tensors="np")["pixel_values"], dtype=torch.float32)
            with torch.inference_mode():
                expected = encoder.networks[0].body(pixels)["embeddings"][0].numpy()
            scale = np.abs(expected).max()
            np.testing.assert_allclose(embedding, expected, rtol=0, atol=1e-4 * scale, err_msg=encoder.row.id)


# --- more than the end of the network --------------------------------------------------------------------------------


def vit(name: str = "vit", depth: int = 3) -> ImageEncoder:
    """A tiny transformer of random weights."""
    architecture = replace(TINY, depth=depth)
    return build(row(name, "clip", architecture.dim, False, Branch(architecture, (), HALF)), Path())


def test_layers_and_blurs_stand_beside_the_embeddings_in_one_pass(pictures, tmp_path, monkeypatch):
    asked = watch(monkeypatch)
    (told,) = run(pictures, [vit()], tmp_path, batch=4, layers=[3, 1], blur=[0, 2.5])
    assert len(asked) == 11 and (told["layers"], told["blur"]) == ([1, 3], [2.5])
    path = Path(told["table"])
    _, arrays = store.read_table(path, "features", {})
    inner = [f"layer.{layer}.{part}" for layer in (1, 3) for part in ("class", "patches")]
    blurred = ["blur.2.5", *(f"blur.2.5.{name}" for name in inner)]
    assert store.vectors(arrays) == ["embeddings", *blurred, *inner]
    encoder = vit()
    for place, image in enumerate(store.load_features(path).images):
        pixels = (
            torch.from_numpy(apply(GEOMETRIES["clip"], decode(pictures / image)).copy()).permute(2, 0, 1)[None] / 255
        )
        soft = torch.from_numpy(gaussian_filter(pixels.numpy(), (0, 0, 2.5, 2.5), mode="reflect"))
        for front, seen in (("", pixels), ("blur.2.5.", soft)):
            with torch.inference_mode():
                expected = encoder.networks[0](seen, (1, 3))
            for name, tensor in expected.items():
                key = (front + name).removesuffix(".embeddings")
                np.testing.assert_allclose(arrays[key][place], tensor[0], atol=2e-5, err_msg=f"{image} {key}")
    assert store.load_features(path, "layer.3.patches").embeddings.shape == (11, 64)


def test_all_layers_are_as_many_as_an_encoder_has(pictures, tmp_path):
    told = run(pictures, [vit("two", 2), vit("three", 3)], tmp_path, layers="all")
    assert [row["layers"] for row in told] == [[1, 2], [1, 2, 3]]
    assert run(pictures, [load("lowlevel", tmp_path)], tmp_path, layers="all")[0]["layers"] == []


def test_layers_that_an_encoder_does_not_have_are_refused(pictures, tmp_path):
    with pytest.raises(AlignvisError, match="vit has layers 1 to 3, and layer 4 was asked for"):
        run(pictures, [vit()], tmp_path, layers=[1, 4])
    with pytest.raises(AlignvisError, match="lowlevel has no layers, and layer 1 was asked for"):
        run(pictures, [load("lowlevel", tmp_path)], tmp_path, layers=[1])
    for blur in ([-1.0], [float("nan")], [1e9], [1e-200]):
        with pytest.raises(AlignvisError, match="each is 0 or from 0.1 to 1000"):
            run(pictures, [vit()], tmp_path, blur=blur)
    assert contents(tmp_path) == {}


def test_a_table_that_holds_more_than_is_asked_for_is_kept_and_one_that_holds_less_is_not(pictures, tmp_path):
    run(pictures, [vit()], tmp_path, layers=[1, 2], blur=[2])
    for wish in ({}, {"layers": [2]}, {"layers": [1], "blur": [0, 2]}):
        assert run(pictures, [vit()], tmp_path, **wish)[0]["kept"]
    with pytest.raises(AlignvisError, match=r"another making \(it differs in: layers\)"):
        run(pictures, [vit()], tmp_path, layers=[3])
    with pytest.raises(AlignvisError, match=r"another making \(it differs in: blur\)"):
        run(pictures, [vit()], tmp_path, blur=[3])


def test_numbers_that_are_not_finite_are_found_in_layers_too(pictures, tmp_path, monkeypatch):
    encoder = vit()
    forward = type(encoder.networks[0].body).forward

    def broken(self, pixels, layers=()):
        found = forward(self, pixels, layers)
        found["layer.1.class"][1:2, 0] = float("inf")
        return found

    monkeypatch.setattr(type(encoder.networks[0].body), "forward", broken)
    with pytest.raises(AlignvisError, match=r"not finite for 'a-x.bmp' \(in layer.1.class\)"):
        run(pictures, [encoder], tmp_path, layers=[1])


# --- parts -----------------------------------------------------------------------------------------------------------


def test_the_number_of_parts_does_not_matter(pictures, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART", 4)
    run(pictures, three(), tmp_path, batch=4)
    assert contents(tmp_path) == whole


def test_parts_that_are_whole_are_not_made_again(pictures, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART", 4)
    with pytest.raises(KeyboardInterrupt):
        run(pictures, three(), tmp_path, batch=4, progress=stop_after(1))
    assert [name for name in contents(tmp_path) if name.startswith("one")] == [
        "one.safetensors.parts/000000000", "one.safetensors.parts/000000004",
    ]  # fmt: skip
    encoders = three()
    run(pictures, encoders, tmp_path, batch=4)
    assert [encoder.sizes for encoder in encoders] == [[3]] * 3 and contents(tmp_path) == whole


def test_untouched_pictures_are_not_read_to_see_that_a_table_still_fits(pictures, tmp_path, monkeypatch):
    run(pictures, three()[:1], tmp_path, batch=4)
    monkeypatch.setattr(parts, "read", lambda path: pytest.fail(f"{path} was read"))
    assert run(pictures, three()[:1], tmp_path, batch=4)[0]["kept"]


def test_a_table_of_before_there_were_stamps_is_kept_when_its_pictures_are_the_same(copy, tmp_path):
    run(copy, three()[:1], tmp_path / "out", batch=4)
    path = tmp_path / "out/one.safetensors"
    document, arrays = store.read_table(path, "features", {})
    older = {key: value for key, value in document.items() if key not in ("layers", "blur")}
    tensors = {name: np.array(array) for name, array in arrays.items() if name != "images.stamp"}
    store.write_table(path, tensors, older)
    assert run(copy, three()[:1], tmp_path / "out", batch=4)[0]["kept"]
    Image.new("RGB", (50, 60)).save(copy / "b/10.jpg")
    with pytest.raises(AlignvisError, match="are not what they were"):
        run(copy, three()[:1], tmp_path / "out", batch=4)


def test_a_disk_that_cannot_hold_the_tables_is_told_of_first(pictures, tmp_path, monkeypatch):
    class Usage:
        free = 100

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)
    encoders = three()
    with pytest.raises(AlignvisError, match=r"the tables need .* MB and .* has 0.0 MB free"):
        run(pictures, encoders, tmp_path)
    assert all(encoder.sizes == [] for encoder in encoders) and contents(tmp_path) == {}


def test_several_processes_do_not_overwrite(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(AlignvisError, match="several processes cannot tell what to overwrite"):
        run(pictures, three(), tmp_path, overwrite=True)


# --- several calls at once -------------------------------------------------------------------------------------------


def test_a_call_of_another_making_takes_nothing_from_one_in_progress(pictures, tmp_path, monkeypatch):
    """Both fill parts of one table's name: their rows must never meet in one table."""
    monkeypatch.setattr(parts, "PART", 4)
    with pytest.raises(KeyboardInterrupt):
        run(pictures, three()[:1], tmp_path / "out", batch=4, progress=stop_after(1))
    begun = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    run(pictures, three()[:1], tmp_path / "out", batch=4, precision="bf16")
    assert begun <= set((tmp_path / "out").rglob("*"))
    run(pictures, three()[:1], tmp_path / "bf16", batch=4, precision="bf16")
    one, two = (store.load_features(tmp_path / name / "one.safetensors") for name in ("out", "bf16"))
    assert np.array_equal(one.embeddings, two.embeddings) and one.document["precision"] == "bf16"
    encoders = three()[:1]
    run(pictures, encoders, tmp_path / "out", batch=4, overwrite=True)  # goes on where the first one stopped
    assert encoders[0].sizes == [3] and store.read_document(tmp_path / "out/one.safetensors")["precision"] == "fp32"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one.safetensors"]


def test_a_table_of_another_making_that_comes_in_between_is_not_told_as_ones_own(pictures, tmp_path):
    run(pictures, three()[:1], tmp_path / "other", batch=4, precision="bf16")

    def meanwhile(done: int, total: int, text: str, note: str = "") -> None:
        shutil.copy(tmp_path / "other/one.safetensors", tmp_path / "out/one.safetensors")

    with pytest.raises(AlignvisError, match=r"another call has put a table of another making at .* \(.*precision"):
        run(pictures, three()[:1], tmp_path / "out", batch=4, progress=meanwhile)


def test_a_link_to_the_old_table_does_not_pass_for_a_new_one(pictures, tmp_path):
    run(pictures, [vit()], tmp_path / "out", batch=4)

    def backup(done: int, total: int, text: str, note: str = "") -> None:
        if not (tmp_path / "backup").exists():
            os.link(tmp_path / "out/vit.safetensors", tmp_path / "backup")

    run(pictures, [vit()], tmp_path / "out", batch=4, layers=[1], overwrite=True, progress=backup)
    assert store.read_document(tmp_path / "out/vit.safetensors")["layers"] == [1]


def test_a_picture_that_was_left_out_on_demand_is_not_left_out_unasked(copy, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART", 4)
    (copy / "a/cut.jpg").write_bytes(BROKEN["a/cut.jpg"](copy))
    with pytest.raises(KeyboardInterrupt):
        run(copy, three()[:1], tmp_path / "out", batch=4, skip_bad=True, progress=stop_after(1))
    with pytest.raises(AlignvisError, match="a/cut.jpg"):
        run(copy, three()[:1], tmp_path / "out", batch=4)
    told = run(copy, three()[:1], tmp_path / "out", batch=4, skip_bad=True)
    assert told[0]["skipped"] == ["a/cut.jpg"]


def test_blurs_that_have_one_name_are_one(pictures, tmp_path):
    (told,) = run(pictures, [vit()], tmp_path, blur=[1, 1.0000001, 2])
    assert told["blur"] == [1.0, 2.0]
