import pickle

import numpy as np
import pytest

from alignvis.errors import AlignvisError
from alignvis.recordings.eeg2_writer import npy_bytes, write_recording


def test_blocks_become_one_recording(tmp_path):
    generator = np.random.default_rng(0)
    data = generator.standard_normal((3, 1000)).astype(np.float32)
    codes = np.zeros(1000)
    codes[[10, 400, 990]] = [7, 99999, 1]
    edges = [0, 1, 300, 301, 1000]
    blocks = (data[:, a:b] for a, b in zip(edges, edges[1:], strict=False))
    write_recording(tmp_path / "new" / "raw.npy", ["Oz", "O1", "O2"], codes, blocks)
    recording = np.load(tmp_path / "new" / "raw.npy", allow_pickle=True).item()
    assert recording["ch_names"] == ["Oz", "O1", "O2", "stim"]
    assert recording["raw_eeg_data"].dtype == np.float64
    np.testing.assert_array_equal(recording["raw_eeg_data"][:3], data.astype(np.float64) * 1e-6)
    np.testing.assert_array_equal(recording["raw_eeg_data"][3], codes)


def test_no_half_recording(tmp_path):
    def blocks():
        yield np.zeros((1, 10))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_recording(tmp_path / "raw.npy", ["Oz"], np.zeros(20), blocks())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "taken.npy").mkdir()
    with pytest.raises(AlignvisError, match="could not be written"):
        write_recording(tmp_path / "taken.npy", ["Oz"], np.zeros(10), [np.zeros((1, 10))])


def test_dict_is_saved_as_numpy_1_did():
    saved = npy_bytes({"train_img_files": ["a.jpg", "b.jpg"]})
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in saved and b"numpy._core" not in saved
    length = int.from_bytes(saved[8:10], "little")
    assert saved[10 + length : 12 + length] == b"\x80\x03"  # pickle protocol 3
    assert pickle.loads(saved[10 + length :]).item() == {"train_img_files": ["a.jpg", "b.jpg"]}
