import fcntl
import hashlib
import json
import random
import socket
import threading
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import pytest

from alignvis.errors import AlignvisError
from alignvis.images import download
from alignvis.images.download import fetch, sha256
from tests.web import Page, serving

BODY = random.Random(0).randbytes(1_500_000)
OTHER = random.Random(1).randbytes(1_500_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def web():
    with serving() as web:
        web.pages["/x.pt"] = Page(BODY)
        yield web


class Heard(list):
    """A progress that remembers, and interrupts like Ctrl-C once so many bytes are there."""

    def __init__(self, interrupt_at=None):
        self.interrupt_at = interrupt_at

    def __call__(self, done, total, text):
        self.append((done, total))
        assert "x.pt" in text
        if self.interrupt_at is not None and done >= self.interrupt_at:
            raise KeyboardInterrupt


def left(folder: Path) -> list[str]:
    return sorted(place.name for place in folder.iterdir())


def cut_download(web, path, at=700_000):
    """Let one download break off, and mend the server."""
    web.pages["/x.pt"].cut = at
    with pytest.raises(AlignvisError, match=f"cut after {at:,} of 1,500,000 bytes"):
        fetch(f"{web.address}/x.pt", path)
    assert path.with_name("x.pt.partial").read_bytes() == BODY[:at]
    assert not path.exists()
    web.pages["/x.pt"].cut = None
    web.requests.clear()
    web.sent = 0


def test_a_whole_download_arrives_and_leaves_nothing_else(web, tmp_path):
    heard = Heard()
    fetch(f"{web.address}/x.pt", tmp_path / "clip" / "x.pt", DIGEST, heard)
    assert (tmp_path / "clip" / "x.pt").read_bytes() == BODY
    assert left(tmp_path / "clip") == ["x.pt"]
    done = [done for done, _ in heard]
    assert done[0] == 0 and done[-1] == len(BODY) and done == sorted(done) and len(done) > 3
    assert {total for _, total in heard} == {len(BODY)}


def test_a_cut_download_is_continued_where_it_stopped(web, tmp_path):
    cut_download(web, tmp_path / "x.pt")
    heard = Heard()
    fetch(f"{web.address}/x.pt", tmp_path / "x.pt", DIGEST, heard)
    assert (tmp_path / "x.pt").read_bytes() == BODY
    assert left(tmp_path) == ["x.pt"]
    assert web.sent == len(BODY) - 700_000
    assert web.requests[0][1]["range"] == "bytes=700000-" and web.requests[0][1]["if-range"] == '"one"'
    done = [done for done, _ in heard]
    assert done[0] == 700_000 and done[-1] == len(BODY) and done == sorted(done)
    assert {total for _, total in heard} == {len(BODY)}


def test_a_download_cut_twice_is_continued_twice(web, tmp_path):
    cut_download(web, tmp_path / "x.pt")
    web.pages["/x.pt"].cut = 100_000
    with pytest.raises(AlignvisError, match="cut after 800,000 of 1,500,000"):
        fetch(f"{web.address}/x.pt", tmp_path / "x.pt", DIGEST)
    web.pages["/x.pt"].cut = None
    fetch(f"{web.address}/x.pt", tmp_path / "x.pt", DIGEST)
    assert (tmp_path / "x.pt").read_bytes() == BODY and web.sent == len(BODY) - 700_000


def test_an_interrupted_download_is_continued(web, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fetch(f"{web.address}/x.pt", tmp_path / "x.pt", DIGEST, Heard(interrupt_at=600_000))
    assert left(tmp_path) == ["x.pt.origin.partial", "x.pt.partial"]
    kept = (tmp_path / "x.pt.partial").stat().st_size
    assert kept >= 600_000
    heard = Heard()
    fetch(f"{web.address}/x.pt", tmp_path / "x.pt", DIGEST, heard)
    assert heard[0] == (kept, len(BODY)) and (tmp_path / "x.pt").read_bytes() == BODY and left(tmp_path) == ["x.pt"]


def test_what_had_arrived_whole_is_not_asked_for_again(web, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fetch(f"{web.address}/x.pt", tmp_path / "x.pt", None, Heard(interrupt_at=len(BODY)))
    assert not (tmp_path / "x.pt").exists()
    web.requests.clear()
    heard = Heard()
    fetch(f"{web.address}/x.pt", tmp_path / "x.pt", DIGEST, heard)
    assert web.requests == [] and heard[-1] == (len(BODY), len(BODY))
    assert (tmp_path / "x.pt").read_bytes() == BODY and left(tmp_path) == ["x.pt"]


def test_a_server_without_ranges_starts_anew(web, tmp_path):
    cut_download(web, tmp_path / "x.pt")
    web.pages["/x.pt"].ranges = False
    heard = Heard()
    fetch(f"{web.address}/x.pt", tmp_path / "x.pt", DIGEST, heard)
    assert (tmp_path / "x.pt").read_bytes() == BODY and heard[0] == (0, len(BODY))
    assert len(web.requests) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"etag": '"two"'},  # the server compares and sends the whole
        {"etag": '"two"', "trusting": True},  # the server does not compare
        {"etag": None, "headers": {"Last-Modified": "Sun, 01 Jun 2025 10:00:00 GMT"}, "trusting": True},
        {"body": OTHER[:900_000], "trusting": True},  # another size under the same ETag
        {"body": OTHER[:600_000], "trusting": True},  # shorter than what is there: status 416
        {"part_headers": {"Content-Range": "bytes 0-1499999/1500000"}, "trusting": True},
        {"part_headers": {"Content-Range": "nonsense"}, "trusting": True},
        {"part_headers": {"Content-Length": "1000"}, "trusting": True},
    ],
)
def test_a_file_that_changed_in_between_starts_anew(web, tmp_path, change):
    cut_download(web, tmp_path / "x.pt")
    web.pages["/x.pt"] = page = Page(**{"body": OTHER, **change})
    fetch(f"{web.address}/x.pt", tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_bytes() == page.body
    assert left(tmp_path) == ["x.pt"]


def test_a_file_that_changed_and_was_cut_again_is_continued_as_the_new_one(web, tmp_path):
    cut_download(web, tmp_path / "x.pt")
    web.pages["/x.pt"] = Page(OTHER, etag='"two"', cut=600_000)
    with pytest.raises(AlignvisError, match="cut after 600,000"):
        fetch(f"{web.address}/x.pt", tmp_path / "x.pt")
    web.pages["/x.pt"].cut = None
    web.sent = 0
    fetch(f"{web.address}/x.pt", tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_bytes() == OTHER and web.sent == len(OTHER) - 600_000


def test_a_weak_etag_vouches_for_no_bytes_but_a_changed_one_is_noticed(web, tmp_path):
    web.pages["/x.pt"].etag = 'W/"one"'
    cut_download(web, tmp_path / "x.pt")
    web.pages["/x.pt"] = Page(OTHER, etag='W/"two"')
    fetch(f"{web.address}/x.pt", tmp_path / "x.pt")
    assert "if-range" not in web.requests[0][1]
    assert (tmp_path / "x.pt").read_bytes() == OTHER


def test_only_a_partial_file_of_this_address_is_continued(web, tmp_path):
    (tmp_path / "x.pt.partial").write_bytes(OTHER[:500_000])
    fetch(f"{web.address}/x.pt", tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_bytes() == BODY
    cut_download(web, tmp_path / "again" / "x.pt")
    web.pages["/other/x.pt"] = Page(OTHER, etag='"one"')
    fetch(f"{web.address}/other/x.pt", tmp_path / "again" / "x.pt")
    assert (tmp_path / "again" / "x.pt").read_bytes() == OTHER


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b"7", b'{"url": "x"}', b"\xff\xfe"])
def test_a_damaged_note_starts_anew(web, tmp_path, note):
    cut_download(web, tmp_path / "x.pt")
    (tmp_path / "x.pt.origin.partial").write_bytes(note)
    (tmp_path / "x.pt.partial").write_bytes(OTHER[:700_000])
    fetch(f"{web.address}/x.pt", tmp_path / "x.pt", DIGEST)
    assert (tmp_path / "x.pt").read_bytes() == BODY


def test_a_wrong_digest_is_refused_with_both_digests(web, tmp_path):
    (tmp_path / "mine.pt").write_bytes(b"mine")
    wanted = hashlib.sha256(OTHER).hexdigest()
    with pytest.raises(AlignvisError) as refused:
        fetch(f"{web.address}/x.pt", tmp_path / "x.pt", wanted)
    assert wanted in str(refused.value) and DIGEST in str(refused.value) and "x.pt" in str(refused.value)
    assert left(tmp_path) == ["mine.pt"]
    web.pages["/x.pt"] = Page(OTHER)
    fetch(f"{web.address}/x.pt", tmp_path / "x.pt", wanted)
    assert (tmp_path / "x.pt").read_bytes() == OTHER


def test_the_published_beginning_of_a_digest_is_enough(web, tmp_path):
    fetch(f"{web.address}/x.pt", tmp_path / "x.pt", DIGEST[:8].upper())
    assert (tmp_path / "x.pt").read_bytes() == BODY
    with pytest.raises(AlignvisError, match="is published"):  # the end of the digest is not its beginning
        fetch(f"{web.address}/x.pt", tmp_path / "y" / "x.pt", DIGEST[-8:])


@pytest.mark.parametrize("status", [403, 404, 500])
def test_an_answer_without_the_file_names_file_address_and_place(web, tmp_path, status):
    web.pages["/x.pt"] = Page(b"sorry", status)
    with pytest.raises(AlignvisError) as refused:
        fetch(f"{web.address}/x.pt", tmp_path / "x.pt")
    for part in ("x.pt", str(status), f"{web.address}/x.pt", str(tmp_path)):
        assert part in str(refused.value)
    assert "\n" not in str(refused.value) and left(tmp_path) == []


def test_an_answer_that_is_neither_whole_nor_an_error_is_refused(web, tmp_path):
    web.pages["/x.pt"] = Page(BODY, 203)
    with pytest.raises(AlignvisError, match="status 203"):
        fetch(f"{web.address}/x.pt", tmp_path / "x.pt")


def test_no_connection(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/x.pt"
    with pytest.raises(AlignvisError) as refused:
        fetch(address, tmp_path / "x.pt")
    for part in ("x.pt", address, str(tmp_path), "Connection refused"):
        assert part in str(refused.value)
    assert left(tmp_path) == []


def test_a_silent_server_is_not_waited_for_without_end(web, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    web.pages["/x.pt"].stall = threading.Event()
    try:
        with pytest.raises(AlignvisError, match="timed out"):
            fetch(f"{web.address}/x.pt", tmp_path / "x.pt")
    finally:
        web.pages["/x.pt"].stall.set()


def test_redirects_are_followed_and_keep_the_range(web, tmp_path):
    web.pages["/moved"] = Page(status=302, headers={"Location": f"{web.address}/x.pt"})
    web.pages["/x.pt"].cut = 700_000
    with pytest.raises(AlignvisError, match="cut after"):
        fetch(f"{web.address}/moved", tmp_path / "x.pt")
    web.pages["/x.pt"].cut = None
    web.sent = 0
    fetch(f"{web.address}/moved", tmp_path / "x.pt", DIGEST)
    assert (tmp_path / "x.pt").read_bytes() == BODY and web.sent == len(BODY) - 700_000


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x.pt", "data:,x"])
def test_only_the_web_is_read(web, tmp_path, place):
    web.pages["/moved"] = Page(status=302, headers={"Location": place})
    for url in (f"{web.address}/moved", place):
        with pytest.raises(AlignvisError, match="could not be fetched"):
            fetch(url, tmp_path / "x.pt")
    assert left(tmp_path) == []


def test_a_redirect_never_leaves_https():
    def lead(before, after):
        request = urllib.request.Request(before)
        return download._Redirects().redirect_request(request, None, 302, "Found", {}, after)

    with pytest.raises(URLError):
        lead("https://a.example/x", "http://b.example/x")
    assert lead("https://a.example/x", "https://b.example/x").full_url == "https://b.example/x"
    assert lead("http://a.example/x", "https://b.example/x").full_url == "https://b.example/x"
    assert lead("http://a.example/x", "http://b.example/x").full_url == "http://b.example/x"


def test_a_web_page_in_the_place_of_the_file_is_not_kept(web, tmp_path):
    web.pages["/x.pt"] = Page(b"<html>accept</html>", headers={"Content-Type": "text/html; charset=utf-8"})
    with pytest.raises(AlignvisError, match="web page"):
        fetch(f"{web.address}/x.pt", tmp_path / "x.pt")
    assert left(tmp_path) == []


def test_a_file_of_unknown_length_is_refused_unless_its_end_is_marked(web, tmp_path):
    web.pages["/x.pt"] = Page(BODY, length=False)
    with pytest.raises(AlignvisError, match="how long"):
        fetch(f"{web.address}/x.pt", tmp_path / "x.pt")
    web.pages["/x.pt"] = Page(BODY, chunked=True)
    heard = Heard()
    fetch(f"{web.address}/x.pt", tmp_path / "x.pt", None, heard)
    assert (tmp_path / "x.pt").read_bytes() == BODY and heard[-1] == (len(BODY), len(BODY))


def test_a_cut_in_a_file_of_unknown_length_is_noticed_and_starts_anew(web, tmp_path):
    web.pages["/x.pt"] = Page(BODY, chunked=True, cut=700_000)
    with pytest.raises(AlignvisError, match="could not be fetched"):
        fetch(f"{web.address}/x.pt", tmp_path / "x.pt")
    assert not (tmp_path / "x.pt").exists()
    web.pages["/x.pt"] = Page(BODY)
    fetch(f"{web.address}/x.pt", tmp_path / "x.pt", DIGEST)
    assert (tmp_path / "x.pt").read_bytes() == BODY


def test_a_file_larger_than_the_disk_is_not_begun(web, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1_499_999))
    with pytest.raises(AlignvisError, match="no room for its 1,500,000 bytes"):
        fetch(f"{web.address}/x.pt", tmp_path / "x.pt")
    assert left(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_said(web, tmp_path):
    (tmp_path / "weights").write_bytes(b"a file")
    with pytest.raises(AlignvisError, match="could not be fetched"):
        fetch(f"{web.address}/x.pt", tmp_path / "weights" / "x.pt")
    assert web.requests == []


def test_two_processes_do_not_write_one_file(web, tmp_path):
    with open(tmp_path / "x.pt.origin.partial", "wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(AlignvisError, match="another process is fetching x.pt"):
            fetch(f"{web.address}/x.pt", tmp_path / "x.pt")
        assert left(tmp_path) == ["x.pt.origin.partial"], "the other process still needs its note"
    assert web.requests == []
    fetch(f"{web.address}/x.pt", tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_bytes() == BODY


def test_a_file_that_is_there_is_never_written_over(web, tmp_path):
    (tmp_path / "x.pt").write_bytes(b"mine")
    fetch(f"{web.address}/x.pt", tmp_path / "x.pt", DIGEST)
    assert (tmp_path / "x.pt").read_bytes() == b"mine" and web.requests == [] and left(tmp_path) == ["x.pt"]


def test_the_proxy_of_the_environment_is_used(web, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", web.address)
    web.pages["http://weights.example/x.pt"] = Page(BODY)
    fetch("http://weights.example/x.pt", tmp_path / "x.pt", DIGEST)
    assert (tmp_path / "x.pt").read_bytes() == BODY


def test_the_note_says_which_file_the_partial_one_is(web, tmp_path):
    cut_download(web, tmp_path / "x.pt")
    note = json.loads((tmp_path / "x.pt.origin.partial").read_bytes())
    assert note == {"url": f"{web.address}/x.pt", "validator": '"one"', "size": len(BODY)}


def test_digest_of_a_file(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, example B.1
    path.write_bytes(b"")
    assert sha256(path) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    with pytest.raises(AlignvisError, match="nothing"):
        sha256(tmp_path / "nothing")
