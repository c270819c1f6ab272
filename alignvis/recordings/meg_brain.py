"""The simulated MEG: a linear answer to latent factors in Gaussian noise of known covariance, and its best reading."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import toeplitz

# Sensors of a 275-channel CTF helmet on either side: region -> how many the rows 1, 2, ... have.
SIDES = {
    "C": (7, 5, 2, 2, 5, 3),
    "F": (4, 5, 5, 6, 6, 7),
    "O": (4, 4, 4, 4, 3),
    "P": (2, 3, 5, 5, 7),
    "T": (6, 7, 7, 7, 7),
}
MIDDLE = {"C": 4, "F": 3, "O": 3, "P": 1}
ABSENT = ("MLF25", "MRF43", "MRO11", "MRO13")  # three do not work at that helmet, the authors dropped MRO11
# Where a region begins and how far apart its rows and columns are, in grid units from the forehead and the midline.
PLACES = {
    "F": (0.0, 0.5, 0.5),
    "C": (3.2, 0.3, 0.45),
    "P": (5.2, 0.3, 0.45),
    "O": (7.0, 0.4, 0.5),
    "T": (2.5, 0.75, 0.3),
}
TEMPORAL = 3.2  # grid units from the midline to the temporal sensors

RATE, START, SAMPLES = 200, -0.1, 281
BASELINE = slice(0, 21)  # -0.1 to 0 s
COMMON = ((60.0, 105, 15), (-80.0, 170, 20), (60.0, 240, 30))  # fT, ms, ms: what every picture evokes
FLAT_BELOW = 0.1  # Hz
BATCH = 128  # trials made at once


@dataclass(frozen=True)
class MegBrain:
    """One subject's answer to pictures, and its noise.

    A source is a field pattern with a time course. The first `len(COMMON)` answer to every picture alike, source
    `len(COMMON) + k` in proportion to factor k.

    Attributes:
        patterns: (sources, channels) fT at the peak.
        courses: (sources, SAMPLES), peak 1, nothing before the onset.
        space: (channels, channels) lower triangle; the noise is `space` @ white noise @ `time`.T.
        time: (SAMPLES, SAMPLES) lower triangle.
    """

    patterns: NDArray[np.float64]
    courses: NDArray[np.float64]
    space: NDArray[np.float64]
    time: NDArray[np.float64]


def sensors() -> dict[str, tuple[float, float]]:
    """The 271 channels of THINGS-MEG in their order, and how far each is to the right and behind the forehead."""
    places = {}
    for side, sign in (("L", -1), ("R", 1)):
        for region, rows in SIDES.items():
            start, down, across = PLACES[region]
            for row, columns in enumerate(rows, 1):
                for column in range(1, columns + 1):
                    aside = (TEMPORAL if region == "T" else 0.0) + across * (column - 0.5)
                    places[f"M{side}{region}{row}{column}"] = (sign * aside, start + down * row)
    for region, count in MIDDLE.items():
        start, down, _ = PLACES[region]
        for row in range(1, count + 1):
            places[f"MZ{region}{row:02d}"] = (0.0, start + 1.5 * down * row)
    return {f"{name}-1609": place for name, place in places.items() if name not in ABSENT}


def make_meg_brain(factors: int, noise: float, amplitude: float, generator: np.random.Generator) -> MegBrain:
    """Draw one subject.

    Args:
        factors: how many latent factors it answers to.
        noise: standard deviation of each channel, fT.
        amplitude: of the answer to one standard deviation of one factor where its field pattern peaks, fT.

    Source: the project's model of evoked responses. Patterns are Gaussian bumps, three of five around occipital
        sensors and the others around parietal and temporal ones; time courses are Gaussians that peak 90 to 260 ms
        after onset, no wider than a quarter of their latency, so that nothing is answered before about 50 ms.
    """
    named = sensors()
    names, place = list(named), np.array(list(named.values()))
    distance = np.linalg.norm(place[:, None] - place, axis=-1)
    back = {region: [row for row, name in enumerate(names) if name[2] in region] for region in ("O", "PT")}
    centres = np.where(
        np.arange(factors) % 5 < 3, generator.choice(back["O"], factors), generator.choice(back["PT"], factors)
    )
    signs = generator.choice([-1.0, 1.0], factors)
    peaks = generator.uniform(90, 260, factors)
    widths = np.minimum(generator.uniform(18, 40, factors), peaks / 4)
    sizes, common_peaks, common_widths = np.array(COMMON, dtype=np.float64).T

    occipital = np.exp(-(distance[names.index("MZO02-1609")] ** 2) / (2 * 2.0**2))
    bumps = np.exp(-(distance[centres] ** 2) / (2 * 1.2**2))
    patterns = np.concatenate([sizes[:, None] * occipital, amplitude * signs[:, None] * bumps])
    times = 1000 * (START + np.arange(SAMPLES) / RATE)
    peaks, widths = np.concatenate([common_peaks, peaks]), np.concatenate([common_widths, widths])
    courses = np.exp(-((times - peaks[:, None]) ** 2) / (2 * widths[:, None] ** 2)) * (times > 0)

    space = np.linalg.cholesky(np.exp(-(distance**2) / (2 * 1.2**2)) + 0.1 * np.eye(len(place)))
    frequency = np.fft.rfftfreq(2**14, 1 / RATE)
    correlation = np.fft.irfft(1 / np.maximum(frequency, FLAT_BELOW))[:SAMPLES]
    time = np.linalg.cholesky(toeplitz(correlation / correlation[0]))
    return MegBrain(patterns, courses, noise / np.sqrt(1.1) * space, time)


def drives(latent: NDArray[np.float64]) -> NDArray[np.float64]:
    """How strongly pictures drive the sources: (pictures, factors) to (pictures, sources)."""
    return np.concatenate([np.ones((len(latent), len(COMMON))), latent], axis=1)


def fields(brain: MegBrain, latent: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Record a trial for each row of (trials, factors): (trials, channels, SAMPLES) fT."""
    strength = drives(latent)
    recorded = np.empty((len(latent), brain.patterns.shape[1], SAMPLES))
    for first in range(0, len(latent), BATCH):
        here = slice(first, first + BATCH)
        noise = brain.space @ (generator.standard_normal(recorded[here].shape) @ brain.time.T)
        recorded[here] = noise + (strength[here, None] * brain.patterns.T) @ brain.courses
    return recorded


def standardise(trials: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bring every trial and channel to baseline standard deviations, in place, as the published files are."""
    before = trials[:, :, BASELINE]
    mean, spread = before.mean(axis=2, keepdims=True), before.std(axis=2, keepdims=True)
    trials -= mean
    trials /= spread
    return trials


def error_covariance(brain: MegBrain) -> NDArray[np.float64]:
    """Covariance (factors, factors) of the best unbiased reading of the factors from one trial.

    The reader knows the brain and the noise, and has the whole trial in fT, less its baseline's mean. The factors enter
    linearly and the noise is Gaussian, so this is exact: with G the Gram matrix of the factors' sources under the
    noise's precision, it is the inverse of G.
    """
    # Subtracting a mean over samples loses one dimension: without the first sample the rest is a basis.
    subtract = np.eye(SAMPLES)[:, 1:]
    subtract[BASELINE] -= 1 / (BASELINE.stop - BASELINE.start)
    time = brain.courses[len(COMMON) :] @ subtract
    whitened = np.linalg.solve(np.linalg.cholesky(subtract.T @ brain.time @ brain.time.T @ subtract), time.T)
    patterns = np.linalg.solve(brain.space, brain.patterns[len(COMMON) :].T)
    covariance = np.linalg.inv((patterns.T @ patterns) * (whitened.T @ whitened))
    return (covariance + covariance.T) / 2
