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
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from alignvis.errors import AlignvisError

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
        resampling: Pillow's filter, antialiased by construction; `torch.nn.functional.interpolate` differs from it by
            up to 4 grey levels even when it antialiases.
        crop: side in pixels of the square that is cut from the middle.
        rounding: what becomes of an odd margin: "half-even" is torchvision's rule, "floor" that of transformers.
    """

    fit: Literal["squash", "shortest"]
    size: int
    resampling: Literal["bilinear", "bicubic"]
    crop: int
    rounding: Literal["half-even", "floor"]


GEOMETRIES: dict[str, Geometry] = {
    "clip": Geometry("shortest", 224, "bicubic", 224, "half-even"),  # OpenAI CLIP, open_clip
    "hf-clip": Geometry("shortest", 224, "bicubic", 224, "floor"),  # CLIPImageProcessor of transformers
    "bicubic-256-crop-224": Geometry("shortest", 256, "bicubic", 224, "floor"),  # facebook/dinov2-* in transformers
    "squash-bilinear-224": Geometry("squash", 224, "bilinear", 224, "floor"),  # facebook/dino-* in transformers
    "squash-bicubic-224": Geometry("squash", 224, "bicubic", 224, "floor"),  # DreamSim
    "shortest-bilinear-224": Geometry("shortest", 224, "bilinear", 224, "half-even"),  # gLocal's DINO and DINOv2
    "lowlevel": Geometry("squash", 96, "bicubic", 96, "floor"),  # `lowlevel.py`
}


def pictures(images: Path) -> list[str]:
    """List the ids of all pictures below a folder, in the order of their bytes, without hidden files and folders.

    Raises:
        AlignvisError: when the folder is missing or holds no picture, when a link leads back into a folder above it, or
            a name is not UTF-8.
    """
    if not images.is_dir():
        raise AlignvisError(f"{images} is {'a file' if images.exists() else 'missing'}; expected a folder of pictures")
    found = []
    seen: set[Path] = set()
    for folder, below, files in os.walk(images, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in below:
            if Path(folder).resolve().is_relative_to(Path(folder, name).resolve()):
                raise AlignvisError(
                    f"{Path(folder, name)} links to a folder above it, so the pictures never end; remove it"
                )
        real = Path(folder).resolve()
        if real in seen:
            raise AlignvisError(
                f"{folder} is {real} once more, by way of a link, so its pictures would count twice; remove it"
            )
        seen.add(real)
        chosen = (name for name in files if name.lower().endswith(SUFFIXES) and not name.startswith("."))
        found += [Path(folder, name).relative_to(images).as_posix() for name in chosen]
    try:
        found.sort(key=lambda image: image.encode())
    except UnicodeEncodeError as error:
        raise AlignvisError(f"{images} has a file name that is not UTF-8 ({error.object!r}); rename it") from error
    if not found:
        raise AlignvisError(f"{images} holds no picture ({', '.join(SUFFIXES)}); check the path")
    return found


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
    # Pillow's readers raise whatever the broken bytes lead to: OSError, SyntaxError, struct.error, KeyError, ...
    except Exception as error:
        raise AlignvisError(f"{path} is a broken picture ({error}); restore it or remove it") from error


def apply(geometry: Geometry, picture: Image.Image) -> NDArray[np.uint8]:
    """Resize and crop an RGB picture.

    Returns:
        (crop, crop, 3) uint8: rows from the top, columns from the left, red first.

    Source: torchvision's Resize and CenterCrop on Pillow pictures (which OpenAI CLIP and DreamSim use), and the
        image processors of transformers; they differ in the rounding of the crop alone.
    """
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
    return picture.convert("RGB")
