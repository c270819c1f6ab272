"""Which container a file of weights is, by its content, and what it holds; nothing in it is ever executed."""

import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np
import safetensors.torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from alignvis.errors import AlignvisError
from alignvis.images.keras_files import read_keras
from alignvis.images.torch_files import read_archive, read_legacy

HDF5 = b"\x89HDF\r\n\x1a\n"
ARRAYS_BYTES = 2**28  # all arrays of one npz together; the largest transform of gLocal takes 4 MB
HEADER_BYTES = 100 * 2**20  # the limit that safetensors itself sets
NPY_STARTS = {b"\x93NUMPY\1\0": 10, b"\x93NUMPY\2\0": 12, b"\x93NUMPY\3\0": 12}  # bytes before the header
NPY_HEADER = re.compile(
    rb"\{'descr': '([<>|](?:[iu][1248]|f[248]))', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,15}, ?)*\d{0,15})\), \}\s*"
)
OTHERS = {  # how other files begin
    HDF5: "an HDF5 file, such as Keras and MATLAB write",
    b"\x1f\x8b": "a gzip archive; unpack it and give the file of weights",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull`, or fetch it again",
    b"\x93NUMPY": "a single numpy array, not weights by name; give the file of weights",
}


def read_tensors(path: Path) -> dict:
    """Read the tensors in a file of weights, which its content tells: safetensors, torch zip, legacy torch, TorchScript
    or Keras (HDF5).

    Returns:
        What the file holds: tensors by name, or nested plain containers of them. Tensors are on the CPU and of the
        stored type. Those of the torch containers are mapped copy-on-write.

    Raises:
        AlignvisError: when the file is missing, cut, something else than weights, or holds objects other than tensors;
            the sentence says what it looks like.
    """
    path, head, size = _head(Path(path))
    if head.startswith(b"PK"):
        with open_archive(path) as archive:
            return read_archive(path, archive)
    # Before the pickles: the length that a safetensors file begins with may begin as a pickle does.
    if len(head) > 8 and head[8:9] == b"{" and (length := int.from_bytes(head[:8], "little")) <= HEADER_BYTES:
        try:
            return safetensors.torch.load_file(path)
        except (SafetensorError, ValueError, OSError) as error:
            raise AlignvisError(
                f"{path} is a safetensors file that is cut or damaged (it has {size:,} bytes, {length:,} of them "
                f"announced for its header: {error}); fetch it again"
            ) from error
    if head.startswith(b"\x80"):
        return read_legacy(path)
    if head.startswith(HDF5):
        return read_keras(path)
    raise AlignvisError(f"{path} {_looks(head)}")


def read_arrays(path: Path) -> dict[str, NDArray]:
    """Read the arrays of an npz file, such as gLocal's transforms.

    Sizes are checked before anything is decompressed, and object arrays (pickles) are refused.

    Raises:
        AlignvisError: when the file is missing, cut, not an npz, or holds objects or too much.
    """
    path, head, _ = _head(Path(path))
    if not head.startswith(b"PK"):
        raise AlignvisError(f"{path} was expected to be an npz file; it {_looks(head)}")
    with open_archive(path) as archive:
        members = archive.infolist()
        if not members or not all(member.filename.endswith(".npy") for member in members):
            raise AlignvisError(f"{path} is a zip archive but not an npz file: it holds more or else than .npy arrays")
        total = sum(member.file_size for member in members)
        if total > ARRAYS_BYTES:
            raise AlignvisError(f"{path} would unpack to {total:,} bytes; arrays here take at most {ARRAYS_BYTES:,}")
        return {member.filename.removesuffix(".npy"): _array(path, archive, member) for member in members}


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive for reading; what is found broken in it, now or inside the block, is said in one sentence.

    Every member is stored or deflated, since the other methods unpack a few bytes to any size in one step, and none is
    encrypted.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.header_offset < 0:
                    raise zipfile.BadZipFile("a member lies before the file")
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
                    raise AlignvisError(
                        f"{path} is a zip archive whose member {member.filename!r} is encrypted or packed in an "
                        "unusual way; unpack it and give the file of weights"
                    )
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        # ValueError is what zipfile does not foresee, such as a name that is not UTF-8.
        raise AlignvisError(
            f"{path} begins like a zip archive but is cut or damaged ({error}); delete it and fetch it again"
        ) from error


def _head(path: Path) -> tuple[Path, bytes, int]:
    """Read the beginning of a file that must be there and hold something."""
    if path.is_dir():
        raise AlignvisError(f"{path} is a folder; give the file of weights in it")
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError as error:
        raise AlignvisError(f"there is no file {path}") from error
    except OSError as error:
        raise AlignvisError(f"{path} cannot be read ({error.strerror})") from error
    if not head:
        raise AlignvisError(f"{path} is empty; delete it and fetch it again")
    return path, head, path.stat().st_size


def _looks(head: bytes) -> str:
    """Say what a file that is not weights looks like, and what to do."""
    for start, sentence in OTHERS.items():
        if head.startswith(start):
            return f"is {sentence}"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return (
            "is a web page, not weights: the download needed a browser or consent; open its address in a browser, save "
            "the file and put it in this place"
        )
    if not head.strip(b"\0"):
        return "begins with nothing but zeros: the download did not finish; delete it and fetch it again"
    if head[257:262] == b"ustar":
        return "is a tar archive; unpack it and give the file of weights"
    text = head.decode("utf-8", "ignore")
    if all(character.isprintable() or character in "\r\n\t" for character in text) and len(text) > len(head) // 2:
        return f"is a text file that begins {text[:40].strip()!r}, not weights; fetch it again"
    return f"begins with the bytes {head[:8].hex(' ')}, which none of the containers of weights does; fetch it again"


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray:
    """Read one .npy member; numpy would parse its header as Python, and allocate what it claims unseen."""
    data = archive.read(member)
    start = NPY_STARTS.get(data[:8], 0)
    end = start + int.from_bytes(data[8:start], "little")
    header = NPY_HEADER.fullmatch(data[start:end])
    if header is None:
        raise AlignvisError(
            f"{path}: {member.filename} is not an array of plain numbers (its header is {data[start:end][:80]!r}), so "
            "it is not opened; fetch it again"
        )
    dtype, shape = np.dtype(header[1].decode()), tuple(int(length) for length in re.findall(rb"\d+", header[3]))
    if prod(shape) * dtype.itemsize != len(data) - end:
        raise AlignvisError(
            f"{path}: {member.filename} claims shape {shape} of {dtype} and has {len(data) - end:,} bytes for it; "
            "fetch it again"
        )
    return np.frombuffer(data, dtype, offset=end).reshape(shape, order="F" if header[2] == b"True" else "C").copy("C")
