import os
import pickle
import random
import struct
import warnings
import zipfile
from argparse import Namespace
from collections import OrderedDict

import pytest
import torch
from torch import nn

from alignvis.errors import AlignvisError
from alignvis.images import torch_files
from alignvis.images.containers import read_tensors

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]
ZIP, LEGACY = True, False


def save(value, path, zipped=ZIP):
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def alike(one, two):
    """Compare two trees: same containers, same keys in the same order, same bits, same types."""
    if isinstance(two, torch.Tensor):
        return (
            isinstance(one, torch.Tensor)
            and one.dtype == two.dtype
            and one.shape == two.shape
            and torch.equal(one, two)
        )
    if isinstance(two, dict):
        return list(one) == list(two) and all(alike(one[key], two[key]) for key in two)
    if isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(alike, one, two))
    return type(one) is type(two) and one == two


class Tower(nn.Module):
    """As OpenAI's: half and single precision side by side, parameters that are no layer, buffers, a repeated block."""

    def __init__(self):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(4))
        self.conv1 = nn.Conv2d(3, 4, 2, bias=False).half()
        self.ln_pre = nn.LayerNorm(4)
        self.bn = nn.BatchNorm1d(4)
        self.blocks = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.proj = nn.Parameter(torch.randn(4, 3).half())
        self.register_buffer("input_resolution", torch.tensor(224))

    def forward(self, image):
        x = self.conv1(image.half()).float().mean((2, 3)) + self.class_embedding
        return self.blocks(self.bn(self.ln_pre(x))) @ self.proj.float() + self.input_resolution


class Clip(nn.Module):
    def __init__(self):
        super().__init__()
        self.visual = Tower()
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, image):
        return self.visual(image) * self.logit_scale


class Hostile(nn.Module):
    """A TorchScript module that writes a file when it is loaded."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x + self.w

    @torch.jit.export
    def __getstate__(self):
        return (self.w, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        self.w = state[0]
        self.training = state[1]
        torch.save(state[0], "was-run")


@pytest.fixture
def scripted():
    """torch calls its own TorchScript deprecated; these tests still need archives of the kind that OpenAI published."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def traced(path):
    torch.manual_seed(0)
    torch.jit.trace(Clip().eval(), torch.randn(2, 3, 4, 4)).save(path)
    return path


def test_a_torchscript_archive_gives_the_state_dict_of_the_real_reader(tmp_path, scripted):
    path = traced(tmp_path / "ViT-B-32.pt")
    read, wanted = read_tensors(path), torch.jit.load(path, map_location="cpu").state_dict()
    assert set(read) == set(wanted) and len(read) == 16
    assert all(alike(read[name], wanted[name].detach()) for name in wanted)
    assert read["visual.conv1.weight"].dtype == read["visual.proj"].dtype == torch.float16
    assert read["visual.ln_pre.weight"].dtype == torch.float32
    assert read["visual.input_resolution"].item() == 224


def test_a_scripted_module_with_lists_and_dicts_among_its_attributes(tmp_path, scripted):
    class Listed(nn.Module):
        sizes: list[int]
        names: dict[str, int]

        def __init__(self):
            super().__init__()
            self.sizes, self.names = [1, 2, 3], {"a": 1}
            self.layer = nn.Linear(2, 2)
            self.again = self.layer

        def forward(self, x):
            return self.layer(x) * self.sizes[0] * self.names["a"]

    path = tmp_path / "x.pt"
    torch.jit.script(Listed()).save(path)
    read, wanted = read_tensors(path), torch.jit.load(path).state_dict()
    assert set(read) == set(wanted) == {"layer.weight", "layer.bias", "again.weight", "again.bias"}
    assert all(torch.equal(read[name], wanted[name]) for name in wanted)


def test_code_in_a_torchscript_archive_is_not_run(tmp_path, scripted, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.jit.script(Hostile()).save("hostile.pt")
    with pytest.raises(AlignvisError, match="hostile.pt"):
        read_tensors(tmp_path / "hostile.pt")
    assert os.listdir() == ["hostile.pt"]
    torch.jit.load("hostile.pt")  # what the fear is about: the real reader runs it
    assert "was-run" in os.listdir()


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
def test_every_type_of_number_comes_back_as_it_was_stored(tmp_path, zipped):
    wanted = {str(dtype): (drawn(3, 5) * 50).to(dtype) for dtype in DTYPES}
    path = save(wanted, tmp_path / "x.pt", zipped)
    assert alike(read_tensors(path), wanted)
    assert alike(read_tensors(path), torch.load(path, weights_only=True))


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
def test_views_keep_their_shape_and_what_they_share(tmp_path, zipped):
    whole = drawn(6, 4)
    wanted = {
        "whole": whole,
        "transposed": whole.T,
        "every second": whole[1::2, 2],
        "scalar": whole[5, 3],
        "empty": torch.zeros(0, 4),
        "none of it": whole[:0],
        "parameter": nn.Parameter(whole),
        "last": torch.tensor(7),
    }
    path = save(wanted, tmp_path / "x.pt", zipped)
    read = read_tensors(path)
    assert alike(read, {name: tensor.detach() for name, tensor in wanted.items()})
    assert read["transposed"].stride() == whole.T.stride()
    assert not any(tensor.requires_grad for tensor in read.values())
    read["whole"][2, 1] = 99.0
    assert read["transposed"][1, 2] == 99.0
    assert alike(read_tensors(path)["whole"], whole), "writing to a tensor reached the file"


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
def test_nested_training_checkpoints_come_back_whole(tmp_path, zipped):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(drawn(5, 3)).sum().backward()
    optimizer.step()
    wanted = {
        "state_dict": OrderedDict((f"module.{name}", value) for name, value in model.state_dict().items()),
        "model": model.state_dict(),  # an OrderedDict with attributes of its own
        "optimizer": optimizer.state_dict(),
        "epoch": 31,
        "shape": torch.Size([2, 3]),
        "notes": ["a", None, 1.5, True, -(2**40)],
        "nothing": {},
    }
    path = save(wanted, tmp_path / "x.pt", zipped)
    assert alike(read_tensors(path), torch.load(path, weights_only=True))
    assert alike(read_tensors(path), wanted)


def test_legacy_numbers_that_lie_at_odd_places_are_read(tmp_path):
    wanted = {"a": torch.arange(3, dtype=torch.uint8), "b": drawn(5).double(), "c": drawn(2).half()}
    path = save(wanted, tmp_path / "x.pth", LEGACY)
    read = read_tensors(path)
    assert alike(read, wanted)
    assert all(tensor.data_ptr() % tensor.itemsize == 0 for tensor in read.values())


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
def test_objects_other_than_tensors_are_named_and_not_made(tmp_path, zipped):
    path = save({"teacher": {"w": drawn(2)}, "args": Namespace(lr=1)}, tmp_path / "full.pth", zipped)
    with pytest.raises(AlignvisError, match="objects other than tensors .argparse.Namespace., so it is not opened"):
        read_tensors(path)


class Runs:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_a_pickle_that_runs_a_command_runs_nothing(tmp_path, kind):
    path, bait = tmp_path / "x.pt", tmp_path / "was-run"
    runs = {"w": Runs(f"touch {bait}")}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(runs, 2))
    else:
        save(runs, path, kind == "zip")
    with pytest.raises(AlignvisError, match="objects other than tensors .posix.system."):
        read_tensors(path)
    assert not bait.exists()
    if kind == "pickle":
        pickle.loads(path.read_bytes())
        assert bait.exists()


def test_a_pickle_of_another_program_is_refused(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"w": [1, 2]}, 2))
    with pytest.raises(AlignvisError, match="torch.save did not write"):
        read_tensors(tmp_path / "x.pkl")


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
@pytest.mark.parametrize("value", [drawn(3), [drawn(3)], 7])
def test_what_has_no_names_is_refused(tmp_path, value, zipped):
    with pytest.raises(AlignvisError, match="not tensors by name"):
        read_tensors(save(value, tmp_path / "x.pt", zipped))


# --- archives made to hurt ---


def archive(path, steps, records=None, byteorder=b"little", packed=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", b"\x80\2" + steps + b".")
        file.writestr("x/byteorder", byteorder)
        for name, content in (records or {}).items():
            file.writestr(f"x/data/{name}", content, packed)
    return path


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def pickled_tensor(size, stride, offset=0, count=6, key="0", dtype="Float"):
    storage = (
        b"(" + text("storage") + f"ctorch\n{dtype}Storage\n".encode() + text(key) + text("cpu") + number(count) + b"tQ"
    )
    window = b"(" + b"".join(map(number, size)) + b"t(" + b"".join(map(number, stride)) + b"t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + window + b"\x89NtR"


def named(*parts):
    return b"}(" + b"".join(text(f"t{i}") + part for i, part in enumerate(parts)) + b"u"


SIX = struct.pack("<6f", *range(6))


def test_an_archive_by_hand(tmp_path):
    path = archive(tmp_path / "x.pt", named(pickled_tensor((2, 2), (2, 1), 2), pickled_tensor((), ())), {"0": SIX})
    assert alike(read_tensors(path), {"t0": torch.tensor([[2.0, 3.0], [4.0, 5.0]]), "t1": torch.tensor(0.0)})


@pytest.mark.parametrize(
    "tensor",
    [
        pickled_tensor((7,), (1,)),
        pickled_tensor((6,), (1,), 1),
        pickled_tensor((2,), (6,)),
        pickled_tensor((1,), (1,), 6),
        pickled_tensor((2, 2), (4, 3)),
        pickled_tensor((10**12,), (0,)),
        pickled_tensor((7,), (0,)),
        pickled_tensor((2**62, 2**62), (0, 0)),
        pickled_tensor((2,), (2**63 - 1,), 1),
        pickled_tensor((2,), (2**62,)),
        pickled_tensor((2,), (1,), 2**63 - 2),
        pickled_tensor((2,), (2**70,)),
        pickled_tensor((-1,), (1,)),
        pickled_tensor((-2, -3), (1, 1)),
        pickled_tensor((2,), (-1,), 1),
        pickled_tensor((2,), (1,), -1),
        pickled_tensor((2, 2), (1,)),
        pickled_tensor((1,) * 17, (1,) * 17),
        pickled_tensor((2,), (1,), count=7),
        pickled_tensor((2,), (1,), count=2**62),
        pickled_tensor((2,), (1,), count=-1),
        pickled_tensor((0,), (1,), count=-1),
        pickled_tensor((2,), (1,), key="../../data.pkl"),
        pickled_tensor((2,), (1,), key="9"),
        pickled_tensor((2,), (1,), count=24, dtype="Bool"),
    ],
)
def test_a_window_that_does_not_fit_its_storage_is_refused(tmp_path, tensor):
    path = archive(tmp_path / "x.pt", named(tensor), {"0": SIX})
    with pytest.raises(AlignvisError, match="x.pt looks like weights saved by torch, but"):
        read_tensors(path)


def test_truth_values_of_any_other_number_are_refused(tmp_path):
    path = archive(tmp_path / "x.pt", named(pickled_tensor((2,), (1,), count=2, dtype="Bool")), {"0": b"\1\2"})
    with pytest.raises(AlignvisError, match="neither 0 nor 1"):
        read_tensors(path)


def test_records_that_are_packed_or_in_another_byte_order_are_refused(tmp_path):
    tensor = named(pickled_tensor((6,), (1,)))
    with pytest.raises(AlignvisError, match="compressed"):
        read_tensors(archive(tmp_path / "a.pt", tensor, {"0": SIX}, packed=zipfile.ZIP_DEFLATED))
    for order in (b"big", b"little" * 1000):
        with pytest.raises(AlignvisError, match="little-endian|byteorder"):
            read_tensors(archive(tmp_path / "b.pt", tensor, {"0": SIX}, order))


def test_a_pickle_beyond_measure_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_files, "PICKLE_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", b"\x80\2" + b"N" * 10**6)
    with pytest.raises(AlignvisError, match="data.pkl has 1,000,002 bytes"):
        read_tensors(tmp_path / "x.pt")


def test_values_that_hold_themselves_or_multiply_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_files, "VALUES", 1000)
    itself = b"}q\0" + text("me") + b"h\0s"
    doubled = b"](" * 40 + b"]q\0" + b"".join(b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(40))
    module = b"c__torch__\nA\n)\x81q\0}" + text("me") + b"h\0sb"
    modules = (b"c__torch__\nA\n)\x81}(" + text("a")) * 40 + b"c__torch__\nA\n)\x81q\0"
    modules += b"".join(text("b") + b"h" + bytes([i]) + b"ubq" + bytes([i + 1]) for i in range(40))
    deep = b"](" * 100 + b"e" * 100
    for steps in (itself, named(doubled), module, modules, named(deep)):
        with pytest.raises(AlignvisError, match="contain each other without end"):
            read_tensors(archive(tmp_path / "x.pt", steps))


def test_a_name_where_a_value_belongs_is_refused(tmp_path):
    for steps in (named(b"ctorch\nFloatStorage\n"), named(b"c__torch__\nA\n)\x81"), b"c__torch__\nA\n"):
        with pytest.raises(AlignvisError, match="looks like weights"):
            read_tensors(archive(tmp_path / "x.pt", steps))


def test_an_archive_of_two_models_or_of_none_is_refused(tmp_path):
    for names in (["a/data.pkl", "b/data.pkl"], ["dino.pth", "lora/adapter.safetensors"], ["a/b/data.pkl"], []):
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
            for name in names:
                file.writestr(name, b"\x80\2}.")
        with pytest.raises(AlignvisError, match="zip archive but not of weights") as refused:
            read_tensors(tmp_path / "x.zip")
        assert all(name in str(refused.value) for name in names)


def test_records_on_top_of_each_other_are_refused(tmp_path):
    path = archive(tmp_path / "x.pt", named(pickled_tensor((600,), (1,), count=600)), {"0": SIX * 100})
    assert len(read_tensors(path)["t0"]) == 600
    content = path.read_bytes()
    end = content.rindex(b"PK\5\6")
    start = content.rindex(b"PK\1\2", 0, end)  # the directory's line of the record, listed a hundred times more
    line, more = content[start:end], 100
    fields = list(struct.unpack("<4s4H2LH", content[end:]))
    fields[3] += more
    fields[4] += more
    fields[5] += more * len(line)
    path.write_bytes(content[:end] + line * more + struct.pack("<4s4H2LH", *fields))
    with pytest.raises(AlignvisError, match="on top of each other"):
        read_tensors(path)


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
def test_a_file_cut_anywhere_is_said_to_be_cut_or_damaged(tmp_path, zipped):
    content = save({"a": drawn(3, 4), "b": drawn(5)}, tmp_path / "whole.pt", zipped).read_bytes()
    path = tmp_path / "x.pt"
    for length in range(1, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(AlignvisError) as refused:
            read_tensors(path)
        assert "\n" not in str(refused.value)


def test_a_view_of_a_storage_that_was_cut_is_refused_although_it_would_fit(tmp_path):
    content = save({"a": drawn(100)[:3]}, tmp_path / "whole.pt", LEGACY).read_bytes()
    (tmp_path / "x.pt").write_bytes(content[:-40])
    with pytest.raises(AlignvisError, match="ends inside the storage"):
        read_tensors(tmp_path / "x.pt")


def test_a_legacy_storage_of_another_length_than_announced_is_refused(tmp_path):
    content = save({"a": drawn(7), "b": drawn(9)}, tmp_path / "x.pt", LEGACY).read_bytes()
    assert content.count(struct.pack("<q", 7)) == 1
    (tmp_path / "x.pt").write_bytes(content.replace(struct.pack("<q", 7), struct.pack("<q", 8)))
    with pytest.raises(AlignvisError, match="has 8 numbers, not 7"):
        read_tensors(tmp_path / "x.pt")


def test_a_directory_that_points_beside_a_record_is_refused(tmp_path):
    path = archive(tmp_path / "x.pt", named(pickled_tensor((6,), (1,), count=6)), {"0": SIX})
    content = bytearray(path.read_bytes())
    offset = content.rindex(b"PK\1\2") + 42
    (start,) = struct.unpack_from("<I", content, offset)
    struct.pack_into("<I", content, offset, start - 8)
    path.write_bytes(content)
    with pytest.raises(AlignvisError, match="not where the directory says"):
        read_tensors(path)


def test_a_legacy_file_of_another_machine_or_version_is_refused(tmp_path):
    content = save({"a": drawn(3)}, tmp_path / "x.pt", LEGACY).read_bytes()
    for old, new in ((b"little_endianq\x02\x88", b"little_endianq\x02\x89"), (b"M\xe9\x03.", b"M\xea\x03.")):
        assert content.count(old) >= 1
        (tmp_path / "y.pt").write_bytes(content.replace(old, new, 1))
        with pytest.raises(AlignvisError, match="protocol"):
            read_tensors(tmp_path / "y.pt")


@pytest.mark.parametrize("kind", ["zip", "legacy", "script"])
def test_random_damage_never_gets_past_a_sentence(tmp_path, kind, scripted):
    path = tmp_path / "whole.pt"
    if kind == "script":
        traced(path)
    else:
        save({"state_dict": {"a": drawn(3, 4), "b": drawn(5).half()}, "epoch": 3}, path, kind == "zip")
    content, generator = path.read_bytes(), random.Random(0)
    pickled = content.index(b"\x80\2"), content.rindex(b"cpu")
    refused = 0
    for trial in range(400):
        broken = bytearray(content)
        for _ in range(generator.choice([1, 2, 8])):
            where = range(*pickled) if trial % 2 else range(len(content))
            broken[generator.choice(where)] = generator.randrange(256)
        (tmp_path / "x.pt").write_bytes(broken)
        try:
            assert isinstance(read_tensors(tmp_path / "x.pt"), dict)
        except AlignvisError as error:
            refused += 1
            assert "x.pt" in str(error)
    assert 100 < refused < 400
