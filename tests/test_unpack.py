import os
import stat
import zipfile

import pytest

from alignvis.errors import AlignvisError
from alignvis.images import unpack as module
from alignvis.images.unpack import has_member, unpack

CONFIG, ADAPTER, BASE = b'{"r": 16}', os.urandom(3_000_000), os.urandom(50_000)


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "dreamsim.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.mkdir("lora")
        file.writestr("lora/adapter_config.json", CONFIG)
        file.writestr("lora/deep/adapter_model.safetensors", ADAPTER)
        file.writestr("lora_other/x", b"other")
        file.writestr("base.pth", BASE)
    return path


def left(folder):
    return sorted(str(place.relative_to(folder)) for place in folder.rglob("*") if place.is_file())


def test_one_file_is_taken_out_under_its_new_name(archive, tmp_path):
    heard = []
    target = tmp_path / "weights" / "dreamsim" / "x.pth"
    assert unpack(archive, "base.pth", target, lambda *told: heard.append(told)) == target
    assert target.read_bytes() == BASE and left(tmp_path / "weights") == ["dreamsim/x.pth"]
    assert heard[-1] == (len(BASE), len(BASE), "unpacking x.pth")


def test_one_folder_is_taken_out_with_all_that_is_in_it_and_no_more(archive, tmp_path):
    heard = []
    unpack(archive, "lora/", tmp_path / "out" / "ensemble_lora", lambda *told: heard.append(told[:2]))
    assert left(tmp_path / "out") == [
        "ensemble_lora/adapter_config.json",
        "ensemble_lora/deep/adapter_model.safetensors",
    ]
    assert (tmp_path / "out" / "ensemble_lora" / "deep" / "adapter_model.safetensors").read_bytes() == ADAPTER
    assert (tmp_path / "out" / "ensemble_lora" / "adapter_config.json").read_bytes() == CONFIG
    total = len(CONFIG) + len(ADAPTER)
    assert heard == sorted(heard) and heard[-1] == (total, total) and {told[1] for told in heard} == {total}


@pytest.mark.parametrize("member", ["base.pth", "lora/"])
def test_an_interruption_leaves_nothing_and_a_second_call_succeeds(archive, tmp_path, member):
    def interrupt(done, total, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(archive, member, tmp_path / "out" / "x", interrupt)
    assert left(tmp_path / "out") == [] and list((tmp_path / "out").iterdir()) == []
    assert unpack(archive, member, tmp_path / "out" / "x").exists()


@pytest.mark.parametrize("member", ["base.pth", "lora/"])
def test_what_is_there_already_is_kept_if_it_is_the_same_and_never_written_over(archive, tmp_path, member):
    target = unpack(archive, member, tmp_path / "x")
    file = target if member == "base.pth" else target / "adapter_config.json"
    before = file.stat().st_mtime_ns
    assert unpack(archive, member, target) == target and file.stat().st_mtime_ns == before
    changed = file.read_bytes()[:-1] + b"?"
    file.write_bytes(changed)
    with pytest.raises(AlignvisError, match="remove the wrong one"):
        unpack(archive, member, target)
    assert file.read_bytes() == changed
    file.write_bytes(changed + b"?")
    with pytest.raises(AlignvisError, match="remove the wrong one"):
        unpack(archive, member, target)
    if member == "lora/":
        file.unlink()
        with pytest.raises(AlignvisError, match="remove the wrong one"):
            unpack(archive, member, target)


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/etc/out.txt", "a//b", "./a", "a\\..\\b", "C:x"])
def test_a_path_that_leads_elsewhere_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("lora/fine.txt", b"fine")
        file.writestr(zipfile.ZipInfo(f"lora/{name}"), b"hostile")
    with pytest.raises(AlignvisError, match="leads elsewhere, so it is not unpacked"):
        unpack(tmp_path / "x.zip", "lora/", tmp_path / "out" / "lora")
    assert left(tmp_path) == ["x.zip"]


@pytest.mark.parametrize("member", ["lora/", "lora/x"])
def test_a_link_is_refused(tmp_path, member):
    link = zipfile.ZipInfo("lora/x")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr(link, b"/etc/passwd")
    with pytest.raises(AlignvisError, match="a link or a path"):
        unpack(tmp_path / "x.zip", member, tmp_path / "out")
    assert left(tmp_path) == ["x.zip"]


def test_an_archive_that_would_fill_the_disk_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb", bytes(10_000_000))
    with pytest.raises(AlignvisError, match="claims to unpack to 10,000,000 bytes, more than 20 times its size"):
        unpack(tmp_path / "x.zip", "bomb", tmp_path / "out")
    assert left(tmp_path) == ["x.zip"]


def test_members_that_are_not_there(archive, tmp_path):
    for member in ("nothing.pth", "lora", "nothing/", "base.pth/", "ase.pth"):
        assert not has_member(archive, member)
        with pytest.raises(AlignvisError, match="is not the official archive"):
            unpack(archive, member, tmp_path / "out")
    assert has_member(archive, "lora/") and has_member(archive, "base.pth")


def test_a_file_that_is_no_archive_has_no_members(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"\x80\2.")
    assert not has_member(tmp_path / "x.pth", "base.pth")


def test_damaged_archives_leave_nothing(archive, tmp_path):
    content = bytearray(archive.read_bytes())
    (tmp_path / "cut.zip").write_bytes(content[:-30])
    content[1_000_000] ^= 1
    (tmp_path / "broken.zip").write_bytes(content)
    for path in (tmp_path / "cut.zip", tmp_path / "broken.zip"):
        with pytest.raises(AlignvisError, match=f"{path.name}.* cut or damaged"):
            unpack(path, "lora/", tmp_path / "out" / "lora")
        assert not (tmp_path / "out").exists() or left(tmp_path / "out") == []


def test_a_full_disk_leaves_nothing(archive, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(AlignvisError, match="No space left on device.; nothing was kept"):
        unpack(archive, "lora/", tmp_path / "out" / "lora")
    assert left(tmp_path / "out") == []
