import math
import os
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import BitImageProcessorPil, CLIPImageProcessorPil, ViTImageProcessorPil

from alignvis.errors import AlignvisError
from alignvis.images.pixels import FILE_LIMIT, GEOMETRIES, apply, decode, pictures, read, stamp
from alignvis.images.tf_resize import tf_bicubic

ROOT = Path(__file__).resolve().parents[1]
GREY = np.random.default_rng(5).integers(0, 256, (40, 56), dtype=np.uint8)
COLOUR = np.random.default_rng(6).integers(0, 256, (40, 56, 3), dtype=np.uint8)


def noise(size: tuple[int, int], seed: int) -> Image.Image:
    """A smooth field with noise on it: edges and detail at every scale."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (6, 7, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = draw.integers(-40, 40, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(coarse).astype(int) + grain, 0, 255).astype(np.uint8))


def sizes(count: int) -> list[tuple[int, int]]:
    draw = np.random.default_rng(0)
    some = [tuple(int(edge) for edge in draw.integers(90, 500, 2)) for _ in range(count)]
    # smaller than the crop, square, already of the size, long, and odd margins on both sides of a half
    return [
        *some,
        (20, 31),
        (300, 300),
        (224, 224),
        (256, 256),
        (900, 100),
        (100, 900),
        (224, 227),
        (229, 224),
        (224, 229),
    ]


PROCESSORS = {
    "hf-clip": CLIPImageProcessorPil(do_rescale=False, do_normalize=False),
    "bicubic-256-crop-224": BitImageProcessorPil(
        size={"shortest_edge": 256}, resample=3, crop_size={"height": 224, "width": 224}, do_rescale=False,
        do_normalize=False,
    ),
    "squash-bilinear-224": ViTImageProcessorPil(resample=2, do_rescale=False, do_normalize=False),
    "squash-bicubic-224": ViTImageProcessorPil(resample=3, do_rescale=False, do_normalize=False),
}  # fmt: skip


def by_transformers(name: str, picture: Image.Image) -> np.ndarray:
    return np.asarray(PROCESSORS[name](picture, return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)


def by_torchvision(picture: Image.Image, resampling: Image.Resampling, edge: int) -> np.ndarray:
    """Resize(edge) and CenterCrop(224) as torchvision's functional.py states them."""
    width, height = picture.size
    short, long = (width, height) if width <= height else (height, width)
    new_long = int(edge * long / short)
    new = (edge, new_long) if width <= height else (new_long, edge)
    array = np.asarray(picture.resize(new, resampling))
    top, left = int(round((array.shape[0] - 224) / 2.0)), int(round((array.shape[1] - 224) / 2.0))
    return array[top : top + 224, left : left + 224]


@pytest.mark.parametrize("name", PROCESSORS)
def test_as_transformers_does_it(name, shared_data):
    photos = [decode(path) for path in sorted((shared_data / "photos").glob("*.jpg"))]
    assert len(photos) == 8
    for picture in [*photos, *(noise(size, seed) for seed, size in enumerate(sizes(16)))]:
        np.testing.assert_array_equal(
            apply(GEOMETRIES[name], picture), by_transformers(name, picture), str(picture.size)
        )


@pytest.mark.parametrize(
    ("name", "resampling", "edge"),
    [
        ("clip", Image.Resampling.BICUBIC, 224),
        ("shortest-bilinear-224", Image.Resampling.BILINEAR, 224),
        ("shortest-bilinear-256-crop-224", Image.Resampling.BILINEAR, 256),
        ("shortest-bicubic-248-crop-224", Image.Resampling.BICUBIC, 248),
        ("shortest-bicubic-235-crop-224", Image.Resampling.BICUBIC, 235),
    ],
)
def test_as_torchvision_does_it(name, resampling, edge, shared_data):
    photos = [decode(path) for path in sorted((shared_data / "photos").glob("*.jpg"))]
    for picture in [*photos, *(noise(size, seed) for seed, size in enumerate(sizes(60)))]:
        np.testing.assert_array_equal(apply(GEOMETRIES[name], picture), by_torchvision(picture, resampling, edge))


def test_the_edges_of_timm_are_those_of_its_stated_shares():
    for share, edge in ((0.9, 248), (0.95, 235), (0.875, 256)):
        assert math.floor(224 / share) == edge
        assert any(f"-{edge}-crop-224" in name and geometry.size == edge for name, geometry in GEOMETRIES.items())


def test_tensorflows_geometry_squashes_the_picture_as_it_was_decoded():
    picture = noise((301, 417), 2)
    array = apply(GEOMETRIES["squash-tf-bicubic-224"], picture)
    np.testing.assert_array_equal(array, tf_bicubic(np.asarray(picture), 224))
    assert array.min() < 0 and array.max() > 255  # neither clipped nor rounded
    np.testing.assert_array_equal(
        apply(GEOMETRIES["squash-tf-bicubic-224"], noise((224, 224), 3)), noise((224, 224), 3)
    )


def test_the_two_crops_differ_by_one_pixel_in_a_quarter_of_shapes_and_never_in_squares():
    differ = 0
    for seed, size in enumerate(sizes(60)[:60]):
        one, two = (apply(GEOMETRIES[name], noise(size, seed)) for name in ("clip", "hf-clip"))
        if not np.array_equal(one, two):
            differ += 1
            wide = size[0] > size[1]
            np.testing.assert_array_equal(one[:, :-1] if wide else one[:-1], two[:, 1:] if wide else two[1:])
    assert 8 <= differ <= 22
    square = noise((311, 311), 1)
    np.testing.assert_array_equal(apply(GEOMETRIES["clip"], square), apply(GEOMETRIES["squash-bicubic-224"], square))
    np.testing.assert_array_equal(apply(GEOMETRIES["clip"], square), apply(GEOMETRIES["hf-clip"], square))


def test_the_longer_edge_is_cut_off_not_rounded():
    # an integer quotient everywhere gives what int() of the true one gives
    for short in range(1, 400, 7):
        for long in range(short, 1200, 13):
            assert 224 * long // short == int(224 * long / short)


def test_every_geometry_gives_a_square_of_the_stated_side():
    for geometry in GEOMETRIES.values():
        for size in ((3, 290), (1, 1), (640, 425)):
            array = apply(geometry, noise(size, 0))
            assert array.shape == (geometry.crop, geometry.crop, 3) and array.dtype == geometry.dtype
            assert array.flags.c_contiguous
    assert {name for name, geometry in GEOMETRIES.items() if geometry.dtype != np.uint8} == {"squash-tf-bicubic-224"}
    assert GEOMETRIES["squash-tf-bicubic-224"].dtype == np.float32
    assert GEOMETRIES["lowlevel"].crop == 96


# --- decoding --------------------------------------------------------------------------------------------------------


def saved(path: Path, picture: Image.Image, **options) -> Path:
    picture.save(path, **options)
    return path


def png(width: int, height: int, bits: int, kind: int, samples: bytes) -> bytes:
    """A PNG put together by hand; each row of the samples begins with a zero byte."""
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([bits, kind, 0, 0, 0])
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(samples, 1)), (b"IEND", b"")]
    chunks = [
        len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big") for name, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp"])
def test_lossless_files_come_back_as_they_were(tmp_path, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    path = saved(tmp_path / name, Image.fromarray(COLOUR), **options)
    np.testing.assert_array_equal(np.asarray(decode(path)), COLOUR)
    assert decode(path).mode == "RGB"


def test_grey_is_the_same_in_all_channels(tmp_path):
    for mode in ("L", "1"):
        picture = Image.fromarray(GREY).convert(mode)
        array = np.asarray(decode(saved(tmp_path / "g.png", picture)))
        np.testing.assert_array_equal(array, np.repeat(np.asarray(picture.convert("L"))[..., None], 3, axis=2))


def test_transparency_is_dropped_and_nothing_is_warned(tmp_path):
    alpha = np.dstack([COLOUR, GREY])
    np.testing.assert_array_equal(np.asarray(decode(saved(tmp_path / "a.png", Image.fromarray(alpha)))), COLOUR)
    palette = Image.fromarray(COLOUR).quantize(16)
    wanted = np.asarray(palette.convert("RGB"))
    for transparency in (3, bytes(range(16))):
        path = saved(tmp_path / "p.png", palette, transparency=transparency)
        np.testing.assert_array_equal(np.asarray(decode(path)), wanted)


def test_sixteen_bits_keep_the_upper_eight(tmp_path):
    deep = GREY.astype(np.uint16) * 256 + 200
    wanted = np.repeat(GREY[..., None], 3, axis=2)
    for name in ("d.png", "d.tif"):
        np.testing.assert_array_equal(np.asarray(decode(saved(tmp_path / name, Image.fromarray(deep)))), wanted)
    thirty_two = saved(tmp_path / "i.tif", Image.fromarray(deep.astype(np.int32)))
    np.testing.assert_array_equal(np.asarray(decode(thirty_two)), wanted)
    for beyond in (-1, 65536):
        path = saved(tmp_path / "i.tif", Image.fromarray(np.full((5, 5), beyond, np.int32)))
        with pytest.raises(AlignvisError, match="i.tif holds values beyond 16 bits"):
            decode(path)


def test_colour_of_sixteen_bits_keeps_the_upper_eight(tmp_path):
    """Pillow cannot write such a file, so it is put together by hand."""
    deep = (COLOUR.astype(np.uint16) * 256 + 200).astype(">u2")
    alpha = np.dstack([deep, np.full((40, 56), 77)]).astype(">u2")
    for kind, samples in ((2, deep), (6, alpha)):
        path = tmp_path / f"{kind}.png"
        path.write_bytes(png(56, 40, 16, kind, b"".join(b"\0" + row.tobytes() for row in samples)))
        np.testing.assert_array_equal(np.asarray(decode(path)), COLOUR)


def test_grey_with_transparency_loses_it(tmp_path):
    path = saved(tmp_path / "la.png", Image.fromarray(np.dstack([GREY, GREY[::-1]]), "LA"))
    np.testing.assert_array_equal(np.asarray(decode(path)), np.repeat(GREY[..., None], 3, axis=2))
    # one grey level, and one colour, that stand for nothing
    for picture, none in ((Image.fromarray(GREY), 7), (Image.fromarray(COLOUR), tuple(COLOUR[0, 0].tolist()))):
        path = saved(tmp_path / "key.png", picture, transparency=none)
        np.testing.assert_array_equal(np.asarray(decode(path)), np.asarray(picture.convert("RGB")))


def test_cmyk_is_converted_as_pillow_does(tmp_path):
    picture = Image.fromarray(COLOUR).convert("CMYK")
    path = saved(tmp_path / "c.tif", picture)
    np.testing.assert_array_equal(np.asarray(decode(path)), np.asarray(picture.convert("RGB")))
    near = np.asarray(decode(saved(tmp_path / "c.jpg", Image.new("CMYK", (32, 32), (0, 255, 255, 0)))))
    assert (near[..., 0] > 250).all() and (near[..., 1:] < 5).all()  # red, not its complement


def test_adobes_cmyk_is_turned_the_right_way_round(tmp_path):
    """Photoshop stores inverted inks, mostly as YCCK, which the flag behind the word Adobe says."""
    # Stored are luminance 90, no colour, and 200 of "no black": inks of 90/255 each, and 55/255 of black.
    data = bytearray(
        saved(tmp_path / "a.jpg", Image.new("CMYK", (32, 32), (165, 127, 127, 55)), quality=100).read_bytes()
    )
    flag = data.index(b"Adobe") + 11
    assert data[flag] == 0
    data[flag] = 2
    grey = np.asarray(decode(tmp_path / "a.jpg", bytes(data))).astype(int)
    assert (abs(grey - 165 * 200 / 255) <= 2).all()


def test_the_rotation_noted_by_a_camera_is_ignored_but_in_tiff(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, options in (("r.jpg", {"quality": 95, "subsampling": 0}), ("r.png", {}), ("r.webp", {"lossless": True})):
        path = saved(tmp_path / name, Image.fromarray(COLOUR), exif=exif, **options)
        with Image.open(path) as noted:
            assert noted.getexif()[0x0112] == 6
        assert decode(path).size == (56, 40)
        assert abs(np.asarray(decode(path)).astype(int) - COLOUR).mean() < 20
    turned = decode(saved(tmp_path / "r.tif", Image.fromarray(COLOUR), exif=exif))
    np.testing.assert_array_equal(np.asarray(turned), np.rot90(COLOUR, -1))


def test_the_first_frame_of_an_animation_is_taken(tmp_path):
    first, second = Image.fromarray(COLOUR), Image.new("RGB", (56, 40))
    more = {"save_all": True, "append_images": [second]}
    for name, options in (("m.webp", {"lossless": True}), ("m.png", {}), ("m.tif", {})):
        path = saved(tmp_path / name, first, **more, **options)
        with Image.open(path) as moving:
            assert moving.n_frames == 2
        np.testing.assert_array_equal(np.asarray(decode(path)), COLOUR)
    # a camera's pair of views in one JPEG
    assert np.asarray(decode(saved(tmp_path / "m.jpg", first, format="MPO", **more))).mean() > 100
    palette = first.quantize(16)
    path = saved(tmp_path / "gif.png", palette, format="GIF", **more)
    with Image.open(path) as moving:
        assert moving.n_frames == 2
    np.testing.assert_array_equal(np.asarray(decode(path)), np.asarray(palette.convert("RGB")))


def test_bytes_that_were_read_already_are_not_read_again(tmp_path):
    data = saved(tmp_path / "a.png", Image.fromarray(COLOUR)).read_bytes()
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "gone.png", data)), COLOUR)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "bmp", "tif"])
def test_a_truncated_file_is_refused_by_name(tmp_path, kind):
    whole = saved(tmp_path / f"whole.{kind}", noise((90, 70), 3)).read_bytes()
    for share in (0.02, 0.3, 0.6, 0.9, 0.97):
        path = tmp_path / f"cut.{kind}"
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(AlignvisError, match=rf"cut\.{kind}"):
            decode(path)


def test_a_truncated_progressive_photo_is_refused(tmp_path):
    whole = saved(tmp_path / "p.jpg", noise((90, 70), 3), progressive=True).read_bytes()
    for share in (0.5, 0.8, 0.95):
        with pytest.raises(AlignvisError, match=r"cut\.jpg is a broken picture"):
            decode(tmp_path / "cut.jpg", whole[: int(len(whole) * share)])


def test_damaged_bytes_never_escape_as_another_exception(tmp_path):
    draw = np.random.default_rng(0)
    for kind in ("jpg", "png", "webp", "bmp", "tif"):
        whole = np.frombuffer(saved(tmp_path / f"w.{kind}", noise((60, 50), 3)).read_bytes(), np.uint8)
        for _ in range(60):
            broken = whole.copy()
            broken[draw.integers(0, min(len(whole), 200), 6)] = draw.integers(0, 256, 6)
            try:
                assert decode(tmp_path / f"b.{kind}", broken.tobytes()).mode == "RGB"
            except AlignvisError as error:
                assert f"b.{kind}" in str(error) and "\n" not in str(error) and "0x7" not in str(error)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is an empty file where a picture was expected"),
        (b"<!DOCTYPE html><html>404</html>", "does not hold a picture, though its name says so"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n", "does not hold a picture"),
        (bytes(4000), "does not hold a picture"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, content, says):
    path = tmp_path / "thing.jpg"
    path.write_bytes(content)
    with pytest.raises(AlignvisError, match=f"thing.jpg {says}"):
        decode(path)


@pytest.mark.parametrize("size", [(9_500, 9_500), (60_000, 60_000)])
@pytest.mark.parametrize("action", ["ignore", "error"])  # whether Pillow's warning is heard must not decide
def test_a_declared_size_is_refused_before_memory_is_taken(size, action):
    with (
        warnings.catch_warnings(action=action),
        pytest.raises(AlignvisError, match="bomb.png declares more than 89,478,485 pixels"),
    ):
        decode(Path("bomb.png"), png(*size, 8, 0, bytes(2)))


@pytest.mark.parametrize(
    ("kind", "mark", "shift", "order"),
    [("bmp", b"BM", 18, "little"), ("gif", b"GIF", 6, "little"), ("jpg", b"\xff\xc0", 5, "big")],
)
def test_every_kind_of_file_can_declare_too_much(tmp_path, kind, mark, shift, order):
    data = bytearray(saved(tmp_path / f"w.{kind}", Image.fromarray(GREY)).read_bytes())
    place = data.index(mark) + shift
    edges = 4 if kind == "bmp" else 2
    for edge in (place, place + edges):
        data[edge : edge + edges] = (20_000).to_bytes(edges, order)
    with pytest.raises(AlignvisError, match="declares more than 89,478,485 pixels"):
        decode(Path(f"bomb.{kind}"), bytes(data))


def test_a_whole_picture_of_20000_pixels_a_side_costs_neither_time_nor_memory(tmp_path):
    """Nothing else is wrong with the file, whose quarter of a megabyte would fill 1.6 GB."""
    path = tmp_path / "large.png"
    path.write_bytes(png(20_000, 20_000, 1, 0, bytes(20_000 * 2_501)))
    code = """
import resource, sys, time
from pathlib import Path
from alignvis.errors import AlignvisError
from alignvis.images.pixels import decode
before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
try:
    decode(Path(sys.argv[1]))
except AlignvisError as error:
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(grown, time.perf_counter() - begun, error)
"""
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, cwd=ROOT)
    grown, seconds, says = done.stdout.split(maxsplit=2)
    assert "large.png declares more than 89,478,485 pixels" in says
    assert int(grown) < 50_000 and float(seconds) < 1


def test_just_below_the_limit_only_the_content_is_wrong():
    with pytest.raises(AlignvisError, match="is a broken picture"):
        decode(Path("big.png"), png(9_400, 9_400, 8, 0, bytes(2)))


def test_a_splinter_is_refused(tmp_path):
    path = saved(tmp_path / "line.png", Image.new("RGB", (1, 101)))
    with pytest.raises(AlignvisError, match="line.png has 1 x 101 pixels, and no edge may be 100 times the other"):
        decode(path)
    assert decode(saved(tmp_path / "line.png", Image.new("RGB", (1, 100)))).size == (1, 100)


def test_floating_point_has_no_white(tmp_path):
    path = saved(tmp_path / "f.tif", Image.fromarray(GREY.astype(np.float32)))
    with pytest.raises(AlignvisError, match="f.tif holds floating-point values"):
        decode(path)


def test_what_is_no_file_or_too_large_is_not_read(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    with open(tmp_path / "huge.jpg", "wb") as file:
        file.truncate(FILE_LIMIT + 1)
    for name, says in (
        ("folder", "is not a file"),
        ("pipe", "is not a file"),
        ("huge", "has 537 MB"),
        ("gone", "No such"),
    ):
        with pytest.raises(AlignvisError, match=f"{name}.jpg.*{says}"):
            read(tmp_path / f"{name}.jpg")


# --- which pictures --------------------------------------------------------------------------------------------------


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_ids_are_paths_in_the_order_of_their_bytes(tmp_path):
    names = ["a/b.jpg", "a-b.jpg", "Z.JPEG", "ä.png", "zebra/1.webp", "zebra/10.bmp", "zebra/2.TIF", "日本/猫 .tiff"]
    names += ["\U0001f600.jpg", "\uff5e.jpg"]
    touch(tmp_path, *names, ".hidden.jpg", ".cache/x.jpg", "a/.git/y.png", "notes.txt", "image_metadata.npy", "jpg")
    found = pictures(tmp_path)
    assert set(found) == set(names)
    assert found.index("Z.JPEG") < found.index("a-b.jpg") < found.index("a/b.jpg") < found.index("zebra/1.webp")
    assert [name.encode() for name in found] == sorted(name.encode() for name in names)
    # not the order of UTF-16 code units, in which a pair of surrogates comes before the full-width forms
    assert found.index("\uff5e.jpg") < found.index("\U0001f600.jpg")


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path, "set/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "set/more").symlink_to(tmp_path / "elsewhere")
    assert pictures(tmp_path / "set") == ["a.jpg", "more/b.jpg"]
    (tmp_path / "set/deep").mkdir()
    (tmp_path / "set/deep/back").symlink_to(tmp_path / "set")
    with pytest.raises(AlignvisError, match="deep/back links to a folder above it"):
        pictures(tmp_path / "set")


def test_links_to_themselves_or_to_nothing_are_no_folders(tmp_path):
    touch(tmp_path, "a.jpg")
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "nowhere.jpg").symlink_to("gone.jpg")
    assert pictures(tmp_path) == ["a.jpg", "nowhere.jpg"]  # reading it says what is wrong


def test_a_folder_that_is_itself_reached_by_a_link_is_read(tmp_path, monkeypatch):
    touch(tmp_path, "set/deep/a.jpg", "set/b.jpg")
    (tmp_path / "link").symlink_to("set")
    monkeypatch.chdir(tmp_path)
    for name in ("link", "set/", "./set", "link/../set"):
        assert pictures(Path(name)) == ["b.jpg", "deep/a.jpg"]
    monkeypatch.chdir(tmp_path / "set")
    assert pictures(Path(".")) == ["b.jpg", "deep/a.jpg"]


def test_a_second_way_into_a_folder_is_named(tmp_path):
    touch(tmp_path, "set/deep/a.jpg")
    (tmp_path / "set/again").symlink_to("deep")
    with pytest.raises(AlignvisError, match=r"set/(again|deep) is .*set/deep once more, by way of a link"):
        pictures(tmp_path / "set")


def test_a_million_pictures_are_listed_in_seconds(tmp_path):
    """A fiftieth of them here; with a Path for each file it takes six times as long."""
    for folder in range(20):
        touch(tmp_path, f"concept{folder:02}/0000.jpg")
        for number in range(1, 1000):
            os.link(tmp_path / f"concept{folder:02}/0000.jpg", tmp_path / f"concept{folder:02}/{number:04}.jpg")
    begun = time.process_time()
    found = pictures(tmp_path)
    taken = time.process_time() - begun
    assert len(found) == 20_000 and found[1001] == "concept01/0001.jpg"
    assert taken < 0.1


def test_a_stamp_is_another_after_any_change(tmp_path):
    path = touch(tmp_path, "a.jpg") / "a.jpg"
    path.write_bytes(b"one")
    first = stamp(path)
    assert first == stamp(str(path)) and first[1] == 3 and abs(first[0] / 1e9 - time.time()) < 60
    path.write_bytes(b"two")
    os.utime(path, ns=(first[0], first[0]))  # as tools that copy times do
    assert stamp(path)[0] > first[0]
    assert stamp(tmp_path / "gone.jpg") == (0, 0)


def test_a_folder_without_pictures_is_refused(tmp_path):
    touch(tmp_path, "file.jpg", "empty/notes.txt")
    for name, says in (("gone", "is missing"), ("file.jpg", "is a file"), ("empty", "holds no picture")):
        with pytest.raises(AlignvisError, match=f"{name} {says}"):
            pictures(tmp_path / name)
    with open(os.fsencode(tmp_path) + b"/empty/\xff.jpg", "wb"):
        pass
    with pytest.raises(AlignvisError, match="a file name that is not UTF-8"):
        pictures(tmp_path / "empty")


def test_the_margin_rule_in_figures():
    # 227 - 224 = 3: a margin of 1.5 is rounded to the even 2, or down to 1; 229 - 224 = 5: 2.5 gives 2 either way
    for width, (even, floor) in {227: (2, 1), 229: (2, 2), 225: (0, 0), 231: (4, 3)}.items():
        ramp = Image.fromarray(np.repeat(np.tile(np.arange(width, dtype=np.uint8), (224, 1))[..., None], 3, axis=2))
        assert apply(GEOMETRIES["clip"], ramp)[0, 0, 0] == even
        assert apply(GEOMETRIES["hf-clip"], ramp)[0, 0, 0] == floor
        assert math.isclose(apply(GEOMETRIES["clip"], ramp)[0, -1, 0], even + 223)


def test_a_folder_that_is_reached_twice_is_refused(tmp_path):
    """Two folders that link to each other would otherwise be walked through for ever, their pictures counted again."""
    for name, other in (("p", "q"), ("q", "p")):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "picture.jpg").write_bytes(b"x")
        (tmp_path / "set" / name / "link").symlink_to(tmp_path / "set" / other)
    with pytest.raises(AlignvisError, match="once more, by way of a link"):
        pictures(tmp_path / "set")


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
    for place in ("a/1.png", "b/2.png"):
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).write_bytes(b"")
    scan = os.scandir

    def closed(folder):
        if str(folder).rstrip("/").endswith("b"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(
        AlignvisError, match=r"b/? cannot be read \(Permission denied\), and its pictures would be missing"
    ):
        pictures(tmp_path)


def test_memory_that_runs_out_does_not_make_a_picture_bad(tmp_path, monkeypatch):
    Image.new("RGB", (20, 20)).save(tmp_path / "p.png")

    def hungry(*words, **more):
        raise MemoryError

    monkeypatch.setattr(Image, "open", hungry)
    with pytest.raises(MemoryError):
        decode(tmp_path / "p.png")
