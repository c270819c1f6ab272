import hashlib
import io
import os
import random
import zipfile
from pathlib import Path

import pytest
import torch

from alignvis.errors import AlignvisError
from alignvis.images.weights import Source, locate, read_tensors
from tests.web import Page, serving

BODY = random.Random(0).randbytes(400_000)
CLIP = Source(
    "clip/ViT-B-32.pt",
    "http://127.0.0.1:9/clip/ViT-B-32.pt",
    cached=(
        "clip:ViT-B-32.pt",
        "torch:checkpoints/vit.pt",
        "hf:openai/clip-vit/model.safetensors",
        "dreamsim:checkpoints/vit.pt",
    ),
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home, and a working folder, that are empty."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    home = tmp_path / "home"
    (tmp_path / "here").mkdir()
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path / "here")
    assert Path.home() == home
    return home


@pytest.fixture
def web():
    with serving() as web:
        yield web


def put(path: Path, content: bytes = BODY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def files(folder: Path) -> list[str]:
    return sorted(str(place.relative_to(folder)) for place in folder.rglob("*") if place.is_file())


def dreamsim_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("base.pth.tar", BODY)
        file.writestr("ensemble_lora/adapter_config.json", b"{}")
        file.writestr("ensemble_lora/adapter_model.safetensors", BODY[:1000])
    return stream.getvalue()


def dreamsim(web) -> tuple[Source, Source]:
    packed = dreamsim_zip()
    web.pages["/v0.2/dreamsim.zip?x=1"] = Page(packed)
    common = {"url": f"{web.address}/v0.2/dreamsim.zip?x=1", "sha256": hashlib.sha256(packed).hexdigest()}
    base = Source("dreamsim/clip.pth.tar", member="base.pth.tar", cached=("dreamsim:base.pth.tar",), **common)
    return base, Source("dreamsim/ensemble_lora", member="ensemble_lora/", cached=("dreamsim:ensemble_lora",), **common)


def test_the_order_of_places(tmp_path, home, monkeypatch):
    """Every place holds the file; each is found once those before it are gone."""
    folder = tmp_path / "weights"
    places = [
        put(tmp_path / "given.pt"),
        put(folder / "clip" / "ViT-B-32.pt"),
        put(home / ".cache" / "clip" / "ViT-B-32.pt"),
        put(home / ".cache" / "torch" / "hub" / "checkpoints" / "vit.pt"),
        put(home / ".cache/huggingface/hub/models--openai--clip-vit/snapshots/abc/model.safetensors"),
        put(tmp_path / "here" / "models" / "checkpoints" / "vit.pt"),
        put(home / ".cache" / "dreamsim" / "checkpoints" / "vit.pt"),
    ]
    assert locate(CLIP, folder, places[0]) == places[0]
    for place in places[1:]:
        assert locate(CLIP, folder, download=False).resolve() == place
        place.unlink()
    with pytest.raises(AlignvisError, match="downloading is switched off"):
        locate(CLIP, folder, download=False)


def test_caches_moved_by_the_environment_are_found(tmp_path, home, monkeypatch):
    folder = tmp_path / "weights"
    repository = "models--openai--clip-vit/snapshots/abc/model.safetensors"
    moved = {
        "TORCH_HOME": "hub/checkpoints/vit.pt",
        "HF_HUB_CACHE": repository,
        "HF_HOME": f"hub/{repository}",
        "XDG_CACHE_HOME": "torch/hub/checkpoints/vit.pt",
    }
    for name, tail in moved.items():
        monkeypatch.setenv(name, str(tmp_path / name))
        place = put(tmp_path / name / tail)
        assert locate(CLIP, folder, download=False) == place
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for tail in (f"huggingface/hub/{repository}", "dreamsim/checkpoints/vit.pt"):
        place = put(tmp_path / "xdg" / tail)
        assert locate(CLIP, folder, download=False) == place
        place.unlink()


def test_the_revision_called_main_comes_first(tmp_path, home):
    kept = home / ".cache/huggingface/hub/models--openai--clip-vit"
    for revision in ("aaa", "bbb", "ccc"):
        blob = put(kept / "blobs" / revision)
        (kept / "snapshots" / revision).mkdir(parents=True)
        os.symlink(blob, kept / "snapshots" / revision / "model.safetensors")
    assert locate(CLIP, tmp_path, download=False).parent.name == "aaa"
    put(kept / "refs" / "main", b"bbb\n")
    assert locate(CLIP, tmp_path, download=False).parent.name == "bbb"
    (kept / "blobs" / "bbb").unlink()  # an interrupted download of the hub leaves a link to nothing
    assert locate(CLIP, tmp_path, download=False).parent.name == "aaa"


def test_a_given_folder_is_searched_for_every_name_the_file_goes_by(tmp_path):
    names = ("clip/ViT-B-32.pt", "ViT-B-32.pt", "checkpoints/vit.pt", "vit.pt", "model.safetensors")
    for name in names:
        folder = tmp_path / name.replace("/", "-")
        place = put(folder / name)
        assert locate(CLIP, tmp_path / "weights", folder) == place


def test_what_is_given_and_not_there_is_never_replaced_by_something_else(tmp_path):
    put(tmp_path / "weights" / "clip" / "ViT-B-32.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        AlignvisError, match="empty does not hold clip/ViT-B-32.pt; looked for clip/ViT-B-32.pt, ViT-B-32"
    ):
        locate(CLIP, tmp_path / "weights", tmp_path / "empty")
    with pytest.raises(AlignvisError, match="there is no file or folder .*nothing"):
        locate(CLIP, tmp_path / "weights", tmp_path / "nothing")


def test_what_is_nowhere_is_fetched_into_the_folder_once(tmp_path, web):
    web.pages["/ViT-B-32.pt"] = Page(BODY)
    source = Source("clip/ViT-B-32.pt", f"{web.address}/ViT-B-32.pt", hashlib.sha256(BODY).hexdigest())
    heard = []
    for _ in range(2):
        path = locate(source, tmp_path / "weights", progress=lambda *told: heard.append(told))
        assert path == tmp_path / "weights" / "clip" / "ViT-B-32.pt" and path.read_bytes() == BODY
    assert len(web.requests) == 1 and files(tmp_path / "weights") == ["clip/ViT-B-32.pt"]
    assert heard[-1] == (len(BODY), len(BODY), "fetching ViT-B-32.pt")


def test_a_wrong_digest_is_not_located(tmp_path, web):
    web.pages["/ViT-B-32.pt"] = Page(BODY)
    with pytest.raises(AlignvisError, match="is published"):
        locate(Source("clip/ViT-B-32.pt", f"{web.address}/ViT-B-32.pt", "0" * 64), tmp_path / "weights")
    assert files(tmp_path / "weights") == []


def test_without_the_network_one_sentence_names_file_address_and_folder(tmp_path, web):
    gone = Source("clip/ViT-B-32.pt", f"{web.address}/gone.pt")
    for source, options in ((CLIP, {"download": False}), (CLIP, {}), (gone, {})):
        with pytest.raises(AlignvisError) as refused:
            locate(source, tmp_path / "weights", **options)
        for part in ("ViT-B-32.pt", source.url, str(tmp_path / "weights" / "clip")):
            assert part in str(refused.value)
    unhosted = Source("harmonization/vgg16.h5", None)
    with pytest.raises(AlignvisError, match="harmonization/vgg16.h5 is not offered for download"):
        locate(unhosted, tmp_path / "weights")


def test_members_of_one_archive_are_fetched_once(tmp_path, web):
    base, adapter = dreamsim(web)
    folder = tmp_path / "weights"
    assert locate(base, folder).read_bytes() == BODY
    assert locate(adapter, folder) == folder / "dreamsim" / "ensemble_lora"
    assert locate(base, folder, download=False) == folder / "dreamsim" / "clip.pth.tar"
    assert len(web.requests) == 1
    assert files(folder) == [
        "dreamsim/clip.pth.tar",
        "dreamsim/dreamsim.zip",
        "dreamsim/ensemble_lora/adapter_config.json",
        "dreamsim/ensemble_lora/adapter_model.safetensors",
    ]


def test_members_are_found_unpacked_in_the_cache_of_dreamsim(tmp_path, home, web):
    base, adapter = dreamsim(web)
    put(home / ".cache/dreamsim/base.pth.tar")
    put(home / ".cache/dreamsim/ensemble_lora/adapter_config.json")
    assert locate(base, tmp_path / "weights", download=False) == home / ".cache/dreamsim/base.pth.tar"
    assert locate(adapter, tmp_path / "weights", download=False) == home / ".cache/dreamsim/ensemble_lora"
    with pytest.raises(AlignvisError, match="downloading is switched off"):  # a file is no folder, a folder no file
        locate(
            Source("x", "http://127.0.0.1:9/x.zip", None, "x/", ("dreamsim:base.pth.tar",)), tmp_path, download=False
        )
    with pytest.raises(AlignvisError, match="downloading is switched off"):
        locate(
            Source("x", "http://127.0.0.1:9/x.zip", None, "x", ("dreamsim:ensemble_lora",)), tmp_path, download=False
        )


def test_members_of_a_given_archive_folder_or_file(tmp_path, web):
    base, adapter = dreamsim(web)
    packed = put(tmp_path / "mine" / "dreamsim.zip", dreamsim_zip())
    for given in (packed, packed.parent):
        assert locate(base, tmp_path / "weights", given).read_bytes() == BODY
        assert (locate(adapter, tmp_path / "weights", given) / "adapter_config.json").read_bytes() == b"{}"
    unpacked = tmp_path / "weights" / "dreamsim"
    assert locate(adapter, tmp_path / "other", unpacked / "ensemble_lora") == unpacked / "ensemble_lora"
    assert locate(adapter, tmp_path / "other", unpacked) == unpacked / "ensemble_lora"
    assert locate(base, tmp_path / "other", unpacked / "clip.pth.tar") == unpacked / "clip.pth.tar"
    with pytest.raises(AlignvisError, match="is a file without ensemble_lora/ in it"):
        locate(adapter, tmp_path / "other", unpacked / "clip.pth.tar")
    assert web.requests == []


def test_a_checkpoint_given_for_a_member_is_taken_as_it_is(tmp_path, web):
    """A torch file is a zip archive too, but does not hold the member."""
    base, _ = dreamsim(web)
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "x.pth")
    assert read_tensors(locate(base, tmp_path / "weights", tmp_path / "x.pth"))["state_dict"]["w"].tolist() == [
        1.0,
        1.0,
    ]


def test_a_broken_archive_that_lies_there_says_what_to_do(tmp_path, web):
    base, _ = dreamsim(web)
    put(tmp_path / "weights" / "dreamsim" / "dreamsim.zip", dreamsim_zip()[:-50])
    with pytest.raises(AlignvisError, match="cut or damaged .*delete it and fetch it again"):
        locate(base, tmp_path / "weights")
    assert web.requests == []
