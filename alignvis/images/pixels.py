"""Picture files to square arrays of pixels, bit for bit as the published pipelines make them.

A picture is turned into RGB exactly as Pillow's ``convert("RGB")`` does, because that is what CLIP, DINO, DreamSim and
their ports in transformers were trained and published with. So transparency is dropped, not blended, and the rotation
that a camera notes in EXIF is ignored, except in TIFF, where Pillow itself applies it. Of an animation the first frame
is taken.
"""

import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from stat import S_ISREG
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from alignvis import files
from alignvis.errors import AlignvisError
from alignvis.images.tf_resize import tf_bicubic

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
# Only these are tried, whatever a file is called: some of Pillow's other readers start programs (EPS: Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
FILE_LIMIT = 2**29  # bytes
PIXEL_LIMIT = 89_478_485  # from here on Pillow, too, suspects a decompression bomb
ASPECT_LIMIT = 100  # beyond it the picture would grow, when its short edge is brought to 224, past any bound


@dataclass(frozen=True)
class Geometry:
    """How a picture of any shape becomes a square one.

    Attributes:
        fit: "squash" gives both edges the length ``size``, whatever that does to proportions; "shortest" gives it to
            the shorter edge, and int(size * long / short) to the longer one.
        size: length in pixels after resizing.
        resampling: "bilinear" and "bicubic" are Pillow's filters, antialiased by construction;
            `torch.nn.functional.interpolate` differs from them by up to 4 grey levels even when it antialiases.
            "tf-bicubic" is TensorFlow's, which does not antialias; see `tf_resize.py`.
        crop: side in pixels of the square that is cut from the middle.
        rounding: what becomes of an odd margin: "half-even" is torchvision's rule, "floor" that of transformers.
    """

    fit: Literal["squash", "shortest"]
    size: int
    resampling: Literal["bilinear", "bicubic", "tf-bicubic"]
    crop: int
    rounding: Literal["half-even", "floor"]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels, which go from 0 to 255; as TensorFlow resizes they are not rounded, and overshoot both."""
        return np.dtype(np.float32 if self.resampling == "tf-bicubic" else np.uint8)


GEOMETRIES: dict[str, Geometry] = {
    "clip": Geometry("shortest", 224, "bicubic", 224, "half-even"),  # OpenAI CLIP, open_clip
    "hf-clip": Geometry("shortest", 224, "bicubic", 224, "floor"),  # CLIPImageProcessor of transformers
    "bicubic-256-crop-224": Geometry("shortest", 256, "bicubic", 224, "floor"),  # facebook/dinov2-* in transformers
    "squash-bilinear-224": Geometry("squash", 224, "bilinear", 224, "floor"),  # facebook/dino-* in transformers
    "squash-bicubic-224": Geometry("squash", 224, "bicubic", 224, "floor"),  # DreamSim
    "shortest-bilinear-224": Geometry("shortest", 224, "bilinear", 224, "half-even"),  # gLocal's DINO and DINOv2
    # gLocal's own default for DINO and DINOv2, and timm's for VGG16
    "shortest-bilinear-256-crop-224": Geometry("shortest", 256, "bilinear", 224, "half-even"),
    "shortest-bicubic-248-crop-224": Geometry("shortest", 248, "bicubic", 224, "half-even"),  # timm: ViT, LeViT
    "shortest-bicubic-235-crop-224": Geometry("shortest", 235, "bicubic", 224, "half-even"),  # timm: ResNet, ConvNeXt
    "squash-tf-bicubic-224": Geometry("squash", 224, "tf-bicubic", 224, "floor"),  # the harmonised encoders
    "lowlevel": Geometry("squash", 96, "bicubic", 96, "floor"),  # `lowlevel.py`
}


def pictures(images: Path) -> list[str]:
    """List the ids of all pictures below a folder, in the order of their bytes, without hidden files and folders.

    Raises:
        AlignvisError: when the folder is missing or holds no picture, when one in it cannot be read, when a link leads
            back into a folder above it, or a name is not UTF-8.
    """
    if not images.is_dir():
        raise AlignvisError(f"{images} is {'a file' if images.exists() else 'missing'}; expected a folder of pictures")
    # Strings throughout, since with a Path for each file a million of them take six times as long.
    top = os.fspath(images)
    found: list[str] = []
    seen: set[str] = set()
    folders = [("", os.path.realpath(top))]  # below the images, ending in "/"; and where it really is
    while folders:
        below, real = folders.pop()
        if real in seen:
            raise AlignvisError(
                f"{Path(top, below)} is {real} once more, by way of a link, so its pictures would count twice; "
                "remove it"
            )
        seen.add(real)
        for entry in _entries(os.path.join(top, below)):
            if not _is_folder(entry):
                if entry.name.lower().endswith(SUFFIXES):
                    found.append(below + entry.name)
                continue
            # Only by way of a link can a folder be met again.
            there = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real, entry.name)
            if entry.is_symlink() and Path(real).is_relative_to(there):
                raise AlignvisError(
                    f"{Path(entry.path)} links to a folder above it, so the pictures never end; remove it"
                )
            folders.append((f"{below}{entry.name}/", there))
    try:
        found.sort(key=str.encode)
    except UnicodeEncodeError as error:
        raise AlignvisError(f"{images} has a file name that is not UTF-8 ({error.object!r}); rename it") from error
    if not found:
        raise AlignvisError(f"{images} holds no picture ({', '.join(SUFFIXES)}); check the path")
    return found


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What is not hidden in a folder."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise AlignvisError(
            f"{folder} cannot be read ({error.strerror}), and its pictures would be missing; make it readable or move "
            "it away"
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for one
        return False


def stamp(path: str | Path) -> tuple[int, int]:
    """When a picture's file last changed and its size (`files.stamp`); zeros if there is none."""
    try:
        return files.stamp(path)
    except NotADirectoryError:  # a picture in a brick, see `brick.py`
        return stamp(os.path.dirname(path))
    except OSError:
        return 0, 0


def read(path: Path) -> bytes:
    """Read a picture file.

    Raises:
        AlignvisError: when it is missing, not a file, empty, or of a size that no picture has.
    """
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):
            raise AlignvisError(f"{path} is called like a picture but is not a file; remove it or rename it")
        if status.st_size > FILE_LIMIT:
            raise AlignvisError(
                f"{path} has {status.st_size / 1e6:,.0f} MB, and a picture may have {FILE_LIMIT / 1e6:,.0f}; make it "
                "smaller"
            )
        data = path.read_bytes()
    except OSError as error:
        raise AlignvisError(f"{path} could not be read ({error.strerror}); restore it or remove it") from error
    if not data:
        raise AlignvisError(f"{path} is an empty file where a picture was expected; restore it or remove it")
    return data


def decode(path: Path, data: bytes | None = None) -> Image.Image:
    """Decode a picture to RGB, 8 bits a channel.

    Grey pictures of 16 bits keep their upper 8, as those in colour do; Pillow alone would turn all but the darkest
    256 levels white.

    Args:
        path: the file; the errors name it.
        data: its bytes, when they are read already.

    Raises:
        AlignvisError: when the file cannot be read, is no picture or only a part of one, has more than 89 million
            pixels, has an edge 100 times as long as the other, or has values without a defined white (float).
    """
    data = read(path) if data is None else data
    try:
        picture = Image.open(BytesIO(data), formats=FORMATS)
        width, height = picture.size
        if width * height > PIXEL_LIMIT:
            raise Image.DecompressionBombError
        if max(width, height) > ASPECT_LIMIT * min(width, height):
            raise AlignvisError(
                f"{path} has {width} x {height} pixels, and no edge may be {ASPECT_LIMIT} times the other; crop it"
            )
        return _rgb(picture, path)
    except AlignvisError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise AlignvisError(
            f"{path} declares more than {PIXEL_LIMIT:,} pixels, as files made to exhaust memory do; make it smaller"
        ) from error
    except UnidentifiedImageError as error:
        raise AlignvisError(
            f"{path} does not hold a picture, though its name says so (its content is none of {', '.join(FORMATS)}); "
            "restore it or remove it"
        ) from error
    except MemoryError:  # says nothing about the picture
        raise
    # Pillow's readers raise whatever the broken bytes lead to: OSError, SyntaxError, struct.error, KeyError, ...
    except Exception as error:
        raise AlignvisError(f"{path} is a broken picture ({error}); restore it or remove it") from error


def as_picture(pixels: NDArray[np.uint8]) -> Image.Image:
    """Take (height, width, 3) RGB for a picture."""
    return Image.fromarray(np.ascontiguousarray(pixels))


def apply(geometry: Geometry, picture: Image.Image) -> NDArray[Any]:
    """Resize and crop an RGB picture.

    Returns:
        (crop, crop, 3) of the geometry's dtype: rows from the top, columns from the left, red first.

    Source: torchvision's Resize and CenterCrop on Pillow pictures (which OpenAI CLIP and DreamSim use), and the
        image processors of transformers; they differ in the rounding of the crop alone.
    """
    if geometry.resampling == "tf-bicubic":
        return tf_bicubic(np.asarray(picture), geometry.size)
    if geometry.fit == "squash":
        width = height = geometry.size
    else:
        width, height = (geometry.size * edge // min(picture.size) for edge in picture.size)
    resized = picture.resize((width, height), Image.Resampling[geometry.resampling.upper()])
    left, top = (_margin(edge - geometry.crop, geometry.rounding) for edge in (width, height))
    return np.array(resized.crop((left, top, left + geometry.crop, top + geometry.crop)))


def _margin(excess: int, rounding: str) -> int:
    return round(excess / 2) if rounding == "half-even" else excess // 2


def _rgb(picture: Image.Image, path: Path) -> Image.Image:
    if picture.mode == "F":
        raise AlignvisError(
            f"{path} holds floating-point values, for which no white is defined; save it with 8 bits a channel"
        )
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        grey = np.asarray(picture)
        if grey.min() < 0 or grey.max() > 65535:
            raise AlignvisError(f"{path} holds values beyond 16 bits; save it with 8 bits a channel")
        picture = Image.fromarray((grey >> 8).astype(np.uint8))
    # Pillow warns that it drops transparency, which is what is wanted here.
    picture.info.pop("transparency", None)
    picture.load()
    return picture if picture.mode == "RGB" else picture.convert("RGB")
