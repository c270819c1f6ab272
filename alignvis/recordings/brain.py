"""The simulated brain: a linear answer to latent factors, in stationary Gaussian noise whose covariance is known."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

# The 63 electrodes in the order in which THINGS-EEG2 recorded them.
ELECTRODES = (
    "Fp1 F3 F7 FT9 FC5 FC1 C3 T7 TP9 CP5 CP1 Pz P3 P7 O1 Oz O2 P4 P8 TP10 CP6 CP2 Cz C4 T8 FT10 FC6 FC2 F4 F8 Fp2 "
    "AF7 AF3 AFz F1 F5 FT7 FC3 FCz C1 C5 TP7 CP3 P1 P5 PO7 PO3 POz PO4 PO8 P6 P2 CPz CP4 TP8 C6 C2 FC4 "
    "FT8 F6 F2 AF4 AF8"
).split()
RATE = 1000  # Hz
RESPONSE = 600  # ms that a response lasts
GAIN = 0.2  # standard deviation of the logarithm of a trial's gain
JITTER = 4.0  # ms, standard deviation of a trial's latency
COMMON = ((3.0, 105, 15), (-4.0, 170, 20), (3.0, 240, 30))  # P1, N1, P2: uV, ms, ms

KERNEL = 2**14  # samples of the filter that colours the noise
BLOCK = 2**16  # samples filtered at once
FLAT_BELOW = 0.1  # Hz


@dataclass(frozen=True)
class Brain:
    """One subject's answer to pictures, and its noise.

    A source is a scalp pattern with a time course. The first `len(COMMON)` answer to every picture alike, source
    `len(COMMON) + k` answers in proportion to factor k.

    Attributes:
        patterns: (sources, channels) in uV at the peak.
        courses: (sources, RESPONSE) at 1 kHz from the picture's onset, peak 1.
        mixing: (channels, channels); the noise is `mixing` times independent noises of the spectrum of `kernel`.
        kernel: (KERNEL,) filter of unit power, amplitude f^-1/2 above `FLAT_BELOW`.
    """

    patterns: NDArray[np.float64]
    courses: NDArray[np.float64]
    mixing: NDArray[np.float64]
    kernel: NDArray[np.float64]


def make_brain(factors: int, noise: float, amplitude: float, generator: np.random.Generator) -> Brain:
    """Draw one subject.

    Args:
        factors: how many latent factors it answers to.
        noise: standard deviation of each channel, uV.
        amplitude: of the answer to one standard deviation of one factor where its scalp pattern peaks, uV.

    Source: the project's model of evoked responses. Scalp patterns are Gaussian bumps around C, CP, P, PO and O
    electrodes, time courses Gaussians that peak 90 to 260 ms after onset, no wider than a quarter of their latency, so
    that nothing is answered before about 50 ms.
    """
    place = np.array([_place(name) for name in ELECTRODES])
    distance = np.linalg.norm(place[:, None] - place, axis=-1)
    posterior = [index for index, name in enumerate(ELECTRODES) if name[0] in "CPO"]
    centres = generator.choice(posterior, factors)
    signs = generator.choice([-1.0, 1.0], factors)
    peaks = generator.uniform(90, 260, factors)
    widths = np.minimum(generator.uniform(18, 40, factors), peaks / 4)
    sizes, common_peaks, common_widths = np.array(COMMON, dtype=np.float64).T

    occipital = np.exp(-(distance[ELECTRODES.index("Oz")] ** 2) / (2 * 2.5**2))
    bumps = np.exp(-(distance[centres] ** 2) / (2 * 1.5**2))
    patterns = np.concatenate([sizes[:, None] * occipital, amplitude * signs[:, None] * bumps])
    time = np.arange(RESPONSE)
    peaks, widths = np.concatenate([common_peaks, peaks]), np.concatenate([common_widths, widths])
    courses = np.exp(-((time - peaks[:, None]) ** 2) / (2 * widths[:, None] ** 2))

    covariance = np.exp(-(distance**2) / (2 * 1.2**2)) + 0.1 * np.eye(len(place))
    mixing = noise / np.sqrt(1.1) * np.linalg.cholesky(covariance)
    return Brain(patterns, courses, mixing, _pink(KERNEL))


def drives(latent: NDArray[np.float64]) -> NDArray[np.float64]:
    """How strongly pictures drive the sources: (pictures, factors) to (pictures, sources)."""
    return np.concatenate([np.ones((len(latent), len(COMMON))), latent], axis=1)


def record(
    brain: Brain,
    onsets: NDArray[np.int64],
    strength: NDArray[np.float64],
    samples: int,
    generator: np.random.Generator,
    block: int = BLOCK,
) -> Iterator[NDArray[np.float32]]:
    """Make a continuous recording, piece by piece, in bounded memory.

    Sources and noises are impulses and white noise through a bank of filters, by overlap and save: responses overlap
    as they do in a fast sequence, and the noise knows no borders between pieces.

    Args:
        onsets: (trials,) rising samples at which pictures appear.
        strength: (trials, sources) from `drives`; each trial's gain and latency jitter are added here.

    Yields:
        (channels, up to block - KERNEL) uV.
    """
    sources, channels = brain.patterns.shape
    block = min(block, 1 << (samples + KERNEL - 1).bit_length())
    gain = np.exp(GAIN * generator.standard_normal(len(onsets)))
    shift = np.rint(JITTER * generator.standard_normal(len(onsets))).astype(np.int64)
    at, strength = onsets + shift, (gain[:, None] * strength).T
    bank = np.zeros((channels + sources, block), np.float32)
    bank[:channels, :KERNEL] = brain.kernel
    bank[channels:, :RESPONSE] = brain.courses
    bank = scipy.fft.rfft(bank, axis=1, workers=-1)
    mix = np.concatenate([brain.mixing, brain.patterns.T], axis=1).astype(np.float32)

    step = block - KERNEL
    driven = np.zeros((channels + sources, block), np.float32)
    driven[:channels, -KERNEL:] = generator.standard_normal((channels, KERNEL), dtype=np.float32)
    for start in range(0, samples, step):
        driven[:, :KERNEL] = driven[:, -KERNEL:]
        driven[:channels, KERNEL:] = generator.standard_normal((channels, step), dtype=np.float32)
        driven[channels:, KERNEL:] = 0
        here = np.flatnonzero((at >= start) & (at < start + step))
        # Two trials never start at one sample, so nothing is lost by adding them through an index.
        driven[channels:, KERNEL + at[here] - start] += strength[:, here]
        spectrum = scipy.fft.rfft(driven, axis=1, workers=-1)
        spectrum *= bank
        filtered = scipy.fft.irfft(spectrum, block, axis=1, workers=-1)
        yield mix @ filtered[:, KERNEL : KERNEL + min(step, samples - start)]


def _pink(taps: int) -> NDArray[np.float64]:
    frequency = np.fft.rfftfreq(taps, 1 / RATE)
    kernel = np.roll(np.fft.irfft(np.maximum(frequency, FLAT_BELOW) ** -0.5, taps), taps // 2)
    return kernel / np.linalg.norm(kernel)


def _place(name: str) -> tuple[float, float]:
    """Column (left is negative) and row (front is 0) of an electrode of the 10-10 system, in grid units."""
    row = name.rstrip("z0123456789")
    number = name[len(row) :]
    rows = ("Fp", "AF", "F", "FC", "C", "CP", "P", "PO", "O")
    depth = rows.index({"FT": "FC", "T": "C", "TP": "CP"}.get(row, row))
    if number == "z":
        return 0.0, float(depth)
    side = (int(number) + 1) // 2
    return float(-side if int(number) % 2 else side), float(depth)
