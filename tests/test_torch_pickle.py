import io
import pickle
from pathlib import Path

import pytest
import torch

from alignvis.errors import AlignvisError
from alignvis.images import torch_pickle
from alignvis.images.torch_pickle import Module, Storage, Stored, interpret

HERE = Path("weights.pt")
FLOATS = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\6tQ"  # six floats under the key "0"
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n(" + FLOATS + b"K\1K\2K\2\x86K\2K\1\x86\x89NtR"
)  # 2 x 2 of them, from the second


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -1,
        255,
        65_535,
        2**31 - 1,
        -(2**31),
        2**70,
        -0.5,
        float("inf"),
        "",
        "ünïcode",
        (),
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 2, 3, 4),
        [],
        [1],
        [1, 2],
        {},
        {"a": 1},
        {"a": 1, 2: [{"b": (None, [])}]},
    ],
)
def test_plain_values_come_out_as_from_the_real_machine(value):
    for optimized in (pickle.dumps(value, 2), pickle.dumps([value, value], 2)):
        assert interpret(HERE, optimized) == (pickle.loads(optimized), {})


def test_what_is_shared_stays_shared():
    part = ["x"]
    made, _ = interpret(HERE, pickle.dumps([part, part], 2))
    assert made[0] is made[1]


def test_a_tensor_by_hand():
    storage = Storage(torch.float32, "0", 6)
    assert interpret(HERE, b"\x80\2" + TENSOR + b".") == (Stored(storage, 1, (2, 2), (2, 1)), {"0": storage})


def test_a_parameter_is_its_tensor():
    made, _ = interpret(HERE, b"\x80\2ctorch._utils\n_rebuild_parameter\n(" + TENSOR + b"\x89NtR.")
    assert made == Stored(Storage(torch.float32, "0", 6), 1, (2, 2), (2, 1))


def test_a_script_object_keeps_its_attributes():
    made, _ = interpret(HERE, b"\x80\2c__torch__.a\nB\n)\x81}(X\1\0\0\0wK\7ub.")
    assert isinstance(made, Module) and made.attributes == {"w": 7}


def test_an_ordered_dict_keeps_its_entries_and_not_its_attributes():
    made, _ = interpret(HERE, b"\x80\2ccollections\nOrderedDict\n)R(X\1\0\0\0wK\7u}X\1\0\0\0mK\1sb.")
    assert made == {"w": 7}


def test_a_stream_is_read_up_to_the_end_of_the_pickle():
    stream = io.BytesIO(pickle.dumps(1, 2) + pickle.dumps("two", 2) + b"rest")
    assert [interpret(HERE, stream)[0], interpret(HERE, stream)[0]] == [1, "two"]
    assert stream.read() == b"rest"


@pytest.mark.parametrize(
    "name", ["os\nsystem", "builtins\neval", "torch\nload", "torch._utils\n_rebuild_tensor", "torch\n"]
)
def test_a_name_is_never_looked_up(name):
    with pytest.raises(AlignvisError) as refused:
        interpret(HERE, b"\x80\2c" + name.encode() + b"\n(X\1\0\0\0xtR.")
    assert name.strip().replace("\n", ".") in str(refused.value) and "weights.pt" in str(refused.value)


@pytest.mark.parametrize(
    "steps",
    [
        b"",
        b".",
        b"K\1",
        b"t.",
        b"h\0.",
        b"K\1e.",
        b"K\1K\2a.",
        b"}K\1s.",
        b"}(K\1u.",
        b"}(]K\1u.",
        b"}]K\1s.",
        b"})K\1s.",
        b"K\1)R.",
        b"ctorch\nFloatStorage\n)R.",
        b"ctorch\nFloatStorage\n)\x81.",
        b"c__torch__\nA\nK\1R.",
        b"c__torch__\nA\n)\x81K\1b.",
        b"]}b.",
        b"ccollections\nOrderedDict\n]\x85R.",
        b"ctorch\nSize\nK\1\x85R.",
        b"ctorch._utils\n_rebuild_parameter\nK\1\x85R.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(K\1K\1K\2\x86K\2K\1\x86\x89NtR.",
        b"ctorch._utils\n_rebuild_tensor_v2\n" + FLOATS + b"\x85R.",
        TENSOR[:-2] + b"X\4\0\0\0conjtR.",
        b"Q.",
        b"K\1Q.",
        FLOATS.replace(b"storage", b"module!") + b".",
        FLOATS.replace(b"Float", b"Odd__") + b".",
        FLOATS.replace(b"tQ", b"K\1tQ") + b".",
        FLOATS.replace(b"X\1\0\0\x000", b"K\1") + b".",
        FLOATS + b"0" + FLOATS + b".",
        FLOATS + FLOATS.replace(b"K\6", b"K\7") + b".",
        b"\x8c\1a.",
        b"B\1\0\0\0a.",
        b"I99999999999\n.",
        b"X\xff\xff\xff\xffa.",
        b"\x8b\xff\xff\xff\x7f1.",
    ],
)
def test_anything_else_is_an_error_of_the_file(steps):
    with pytest.raises((AlignvisError, ValueError, TypeError, LookupError)):
        interpret(HERE, b"\x80\2" + steps)


def test_the_number_of_steps_is_bounded(monkeypatch):
    monkeypatch.setattr(torch_pickle, "STEPS", 100)
    assert interpret(HERE, b"\x80\2" + b"N" * 98 + b".")[0] is None
    with pytest.raises(ValueError, match="more than 100 steps"):
        interpret(HERE, b"\x80\2" + b"N" * 99 + b".")
