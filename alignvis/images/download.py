"""Fetch one official file: resumed where it stopped, checked, and never half there under its own name."""

import hashlib
import http.client
import json
import os
import re
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError

from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent

try:
    import fcntl
except ImportError:  # Windows, which by itself keeps a second process from moving an open file
    fcntl = None

TIMEOUT = 30.0  # seconds without an answer
CHUNK = 2**18  # bytes


def fetch(url: str, path: Path, sha256: str | None = None, progress: Progress = silent) -> None:
    """Download ``url`` to ``path``, whole or not at all.

    What has arrived lies in ``<path>.partial``, and stays there when the connection breaks or the user interrupts; the
    next call continues it if the server still offers the same file (same ETag or date, same size), else starts anew.
    ``<path>.origin.partial`` remembers which file that was.

    Args:
        url: http or https; redirects are followed, but never from https to http. Proxies are those of the environment.
        sha256: the published hex digest, or its published beginning.
        progress: told in bytes.

    Raises:
        AlignvisError: when there is no answer, the answer is not the file, it breaks off, or its digest is another;
            the sentence names the file, its address and the place to put it by hand.
    """
    partial, origin = (path.with_name(f"{path.name}{end}") for end in (".partial", ".origin.partial"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(partial, origin) as note:
            if path.exists():  # another process was quicker
                return
            _transfer(url, partial, note, progress)
            _verify(url, path, partial, sha256)
            os.replace(partial, path)
    except (OSError, http.client.HTTPException) as error:
        raise AlignvisError(
            f"{path.name} could not be fetched from {url} ({_reason(error)}); run this again to continue, or fetch it "
            f"by other means and put it in {path.parent}"
        ) from error


def sha256(path: Path) -> str:
    """Digest a file (hex); a file that has not changed is read only once in a process."""
    try:
        state = path.stat()
        return _digest(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise AlignvisError(f"{path} cannot be read ({error.strerror})") from error


@lru_cache(maxsize=256)
def _digest(path: Path, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _alone(partial: Path, origin: Path) -> Iterator[BinaryIO]:
    """Open the note on the partial file, and hold it so that no other process writes the same download."""
    held = False
    try:
        with open(origin, "a+b") as note:
            if fcntl is not None:
                try:
                    fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise AlignvisError(
                        f"another process is fetching {partial.stem}; run this again when it is done"
                    ) from error
            held = True
            yield note
    finally:
        if held and not partial.exists():
            origin.unlink(missing_ok=True)


def _transfer(url: str, partial: Path, note: BinaryIO, progress: Progress) -> None:
    """Bring the partial file to its full length."""
    known = _known(note, url)
    done = partial.stat().st_size if known and partial.exists() else 0
    if done and done == known["size"]:
        progress(done, done, f"fetching {partial.stem}")
        return
    response, done = _answer(url, done, known)
    with response:
        if response.headers.get_content_type() == "text/html":
            raise OSError("the answer is a web page, not the file: the address wants a browser or consent")
        if response.length is None and not response.chunked:
            raise OSError(
                "the answer does not say how long the file is, so a cut one could not be told from a whole one"
            )
        size = None if response.length is None else done + response.length
        if size is not None and size - done > shutil.disk_usage(partial.parent).free:
            raise OSError(f"the disk has no room for its {size - done:,} bytes")
        if not done:
            note.truncate(0)
            note.write(json.dumps({"url": url, "validator": _validator(response), "size": size}).encode())
            note.flush()
        with open(partial, "r+b" if done else "wb") as file:
            file.seek(done)
            progress(done, size or done, f"fetching {partial.stem}")
            while part := response.read1(CHUNK):
                file.write(part)
                done += len(part)
                progress(done, size or done, f"fetching {partial.stem}")
            file.flush()
            os.fsync(file.fileno())
        if size is not None and done != size:
            raise OSError(f"the connection was cut after {done:,} of {size:,} bytes")


def _known(note: BinaryIO, url: str) -> dict[str, Any]:
    """Read which file the partial one is the beginning of; nothing if it is of another address or cannot be told."""
    note.seek(0)
    try:
        known = json.loads(note.read())
        return known if known["url"] == url and {"validator", "size"} <= known.keys() else {}
    except (ValueError, TypeError, KeyError):
        return {}


def _answer(url: str, done: int, known: dict[str, Any]) -> tuple[http.client.HTTPResponse, int]:
    """Ask for what is missing; return the answer and where in the file it begins: where asked, or at zero."""
    if done:
        try:
            response = _open(url, {"Range": f"bytes={done}-", **_if_unchanged(known["validator"])})
        except HTTPError as error:
            if error.code != 416:
                raise
            error.close()
        else:
            if response.status == 200:  # the server ignores ranges, or offers another file than before
                return response, 0
            if _continues(response, done, known):
                return response, done
            response.close()
    response = _open(url, {})
    if response.status != 200:
        raise OSError(f"the answer has status {response.status}")
    return response, 0


def _continues(response: http.client.HTTPResponse, done: int, known: dict[str, Any]) -> bool:
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    return (
        response.status == 206
        and span is not None
        and (int(span[1]), int(span[2])) == (done, known["size"])
        and _validator(response) == known["validator"]
        and response.length == known["size"] - done
    )


def _validator(response: http.client.HTTPResponse) -> str | None:
    return response.headers.get("ETag") or response.headers.get("Last-Modified")


def _if_unchanged(validator: str | None) -> dict[str, str]:
    # A weak ETag does not vouch for bytes, so the protocol forbids it here (RFC 9110, section 13.1.5).
    return {} if validator is None or validator.startswith("W/") else {"If-Range": validator}


def _verify(url: str, path: Path, partial: Path, published: str | None) -> None:
    if published is None:
        return
    with open(partial, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(published.lower()):
        partial.unlink()
        raise AlignvisError(
            f"what {url} sent for {path.name} has the sha256 {found}, but {published} is published, so it was "
            f"not kept; run this again, or put the right file in {path.parent}"
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow http and https, and never leave https again."""

    def redirect_request(self, request, file, code, message, headers, address):
        before, after = (place.split(":")[0].lower() for place in (request.full_url, address))
        if after != "https" and (before, after) != ("http", "http"):
            raise URLError(f"it leads from {before} to {address}, which is not followed")
        return super().redirect_request(request, file, code, message, headers, address)


def _open(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    opener = urllib.request.OpenerDirector()  # not build_opener, which would also open file:, ftp: and data:
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener.open(urllib.request.Request(url, headers={"User-Agent": "alignvis", **headers}), timeout=TIMEOUT)


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        error.close()
        return f"the answer is {error.code} {error.reason}"
    if isinstance(error, URLError):
        return str(getattr(error.reason, "strerror", None) or error.reason)
    return str(error) or type(error).__name__
