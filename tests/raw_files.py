"""Recordings of every kind, written by hand from the public descriptions of their formats.

Voltages are in volts, (channels, samples). Each writer returns the path that a user would give.
"""

import struct
from pathlib import Path

import mne
import numpy as np
from scipy.io import savemat


def write_brainvision(path, volts, names, rate, *, resolution=0.1, markers=(), float32=False, vectorized=False):
    """Write .vhdr, .eeg and .vmrk: 16-bit integers of ``resolution`` microvolts, or floats.

    Source: BrainVision Core Data Format 1.0, Brain Products.
    """
    path = Path(path)
    kind = "IEEE_FLOAT_32" if float32 else "INT_16"
    channels = [f"Ch{k}={name},,{resolution:g},µV" for k, name in enumerate(names, 1)]
    lines = [
        "Brain Vision Data Exchange Header File Version 1.0", "", "[Common Infos]", "Codepage=UTF-8",
        f"DataFile={path.stem}.eeg", f"MarkerFile={path.stem}.vmrk", "DataFormat=BINARY",
        f"DataOrientation={'VECTORIZED' if vectorized else 'MULTIPLEXED'}", f"NumberOfChannels={len(names)}",
        f"SamplingInterval={1e6 / rate:.6f}", "", "[Binary Infos]", f"BinaryFormat={kind}", "", "[Channel Infos]",
        *channels, "",
    ]  # fmt: skip
    path.write_text("\n".join(lines), encoding="utf-8")
    numbers = volts * 1e6 / resolution
    numbers = numbers.astype("<f4") if float32 else np.rint(numbers).clip(-32767, 32767).astype("<i2")
    (numbers if vectorized else numbers.T).copy(order="C").tofile(path.with_suffix(".eeg"))
    marks = ["Mk1=New Segment,,1,1,0,20200101120000000000"]
    marks += [f"Mk{k}={kind},{text},{first + 1},{length},0" for k, (kind, text, first, length) in enumerate(markers, 2)]
    lines = [
        "Brain Vision Data Exchange Marker File, Version 1.0", "[Common Infos]", "Codepage=UTF-8",
        f"DataFile={path.stem}.eeg", "[Marker Infos]", *marks, "",
    ]  # fmt: skip
    path.with_suffix(".vmrk").write_text("\n".join(lines), encoding="utf-8")
    return path


def write_edf(path, volts, names, rate, *, kind="", range_uv=3276.8, record=1, slow=()):
    """Write EDF, or BDF with 24-bit numbers if the name says so; ``slow`` are further channels, sampled once a record.

    Source: Kemp et al. (1992), doi:10.1016/0013-4694(92)90009-7; www.edfplus.info; www.biosemi.com/faq/file_format.htm.
    """
    path = Path(path)
    wide = path.suffix == ".bdf"
    most = 2**23 - 1 if wide else 2**15 - 1
    width, each = 3 if wide else 2, int(rate * record)
    records = -(-volts.shape[1] // each)
    padded = np.zeros((len(volts), records * each))
    padded[:, : volts.shape[1]] = volts
    scale = 2 * range_uv / (2 * most + 1)  # of a step, in microvolts
    numbers = np.rint((padded * 1e6 + range_uv) / scale - most - 1).clip(-most - 1, most).astype("<i4")
    labels = [*names, *slow]
    columns = [
        [label[:16].ljust(16) for label in labels], ["".ljust(80) for _ in labels], ["uV".ljust(8) for _ in labels],
        [f"{-range_uv:g}".ljust(8) for _ in labels], [f"{range_uv:g}".ljust(8) for _ in labels],
        [f"{-most - 1}".ljust(8) for _ in labels], [f"{most}".ljust(8) for _ in labels], ["".ljust(80) for _ in labels],
        [f"{1 if label in slow else each}".ljust(8) for label in labels], ["".ljust(32) for _ in labels],
    ]  # fmt: skip
    header = "".join(
        ["X X X X".ljust(80), "Startdate 01-JAN-2020 X X X".ljust(80), "01.01.20", "12.00.00"]
        + [f"{256 * (len(labels) + 1)}".ljust(8), kind.ljust(44), f"{records}".ljust(8), f"{record:g}".ljust(8)]
        + [f"{len(labels)}".ljust(4)]
    ) + "".join("".join(column) for column in columns)
    with open(path, "wb") as file:
        file.write(b"\xffBIOSEMI" if wide else b"0       ")
        file.write(header.encode("ascii"))
        for number in range(records):
            piece = numbers[:, number * each : (number + 1) * each]
            for row in [*piece, *(np.zeros(1, "<i4") for _ in slow)]:
                file.write(np.ascontiguousarray(row).view("u1").reshape(-1, 4)[:, :width].tobytes())
    return path


def write_set(path, volts, names, rate, *, beside=False, compressed=False, flat=False, events=(), single=True):
    """Write an EEGLAB file by scipy, its samples in it or in a .fdt beside it; ``flat``: fields as variables."""
    path = Path(path)
    data = (volts * 1e6).astype(np.float32 if single else np.float64)
    places = np.array([(name, "EEG", []) for name in names], dtype=[(field, "O") for field in ("labels", "type", "X")])
    fields = {
        "setname": "one", "nbchan": float(len(names)), "trials": 1.0, "pnts": float(data.shape[1]),
        "srate": float(rate), "xmin": 0.0, "xmax": (data.shape[1] - 1) / rate, "data": data, "chanlocs": places,
        "icaweights": [],
    }  # fmt: skip
    if events:
        columns = [(field, "O") for field in ("type", "latency", "duration")]
        fields["event"] = np.array([tuple(event) for event in events], dtype=columns)
    if beside:
        data.T.astype("<f4").tofile(path.with_suffix(".fdt"))
        fields["data"] = path.with_suffix(".fdt").name
    savemat(path, fields if flat else {"EEG": fields}, appendmat=False, do_compression=compressed, oned_as="row")
    return path


def write_fif(path, volts, names, rate, *, kinds="eeg", bads=(), annotations=(), skipped=0, single=False):
    """Write a raw FIF by mne, whose first sample may have a number other than 0."""
    info = mne.create_info(list(names), rate, kinds)
    raw = mne.io.RawArray(volts, info, first_samp=skipped, verbose="error")
    raw.set_meas_date(1577880000)
    raw.info["bads"] = list(bads)
    for onset, duration, text in annotations:
        raw.annotations.append(raw.first_time + onset, duration, text)
    raw.save(path, fmt="single" if single else "double", overwrite=True, verbose="error")
    return Path(path)


def write_events(path, rows, *, names=("onset", "image", "split"), between="\t"):
    """Write an events table from (onset, image, split)."""
    lines = [between.join(names), *(between.join(map(str, row)) for row in rows)]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Path(path)


def element(kind, content):
    """A data element of a MATLAB file, for files that no program would write."""
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)
