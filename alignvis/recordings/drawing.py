"""Draws one picture from latent factors: what the simulated brain responds to is really there to be seen."""

import math
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import ndtr

# Name -> value at the lowest and at the highest. Lengths are in shorter sides of the picture, hues in degrees of
# OKLCH, lightness from 0 to 1. Hues and orientations span less than a half turn, so that none of them wraps, and
# places are inside the central square that image encoders crop to.
FACTORS: dict[str, tuple[float, float]] = {
    "background hue": (85, 262),
    "background colourfulness": (0.015, 0.14),
    "background lightness": (0.40, 0.78),
    "stripe orientation": (-75, 75),
    "stripe frequency": (3.5, 13),
    "stripe contrast": (0.05, 0.24),
    "roughness": (0.005, 0.09),
    "light from the left": (-0.34, 0.34),
    "vignette": (-0.5, 1.3),
    "object hue": (-75, 85),
    "object lightness": (0.34, 0.90),
    "object size": (0.10, 0.21),
    "object x": (-0.17, 0.17),
    "object y": (-0.17, 0.17),
    "object elongation": (-0.45, 0.45),
    "object spikiness": (0.0, 0.42),
    "edge softness": (0.006, 0.11),
    "companions": (0.0, 7.0),
}
RING = 0.385  # distance of the companions from the middle of the picture
COMPANION = 0.042  # their radius
LEVELS = 512  # of lightness in a palette


def paint(latent: NDArray[np.floating], width: int, height: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a striped, lit background with one object and its companions.

    Args:
        latent: (factors,) standard normal values in the order of `FACTORS`; each is squashed into its range by the
            normal distribution function, so that a normal factor comes out uniform.
        width, height: in pixels.
        generator: draws the grain, which carries no information but its strength.

    Returns:
        (height, width, 3) sRGB.
    """
    latent = np.asarray(latent, dtype=np.float64)
    assert latent.shape == (len(FACTORS),), "one latent value for each factor"
    value = {
        name: low + (high - low) * float(ndtr(z))
        for (name, (low, high)), z in zip(FACTORS.items(), latent, strict=True)
    }
    short = min(width, height)
    x = ((np.arange(width, dtype=np.float32) - (width - 1) / 2) / short)[None, :]
    y = ((np.arange(height, dtype=np.float32) - (height - 1) / 2) / short)[:, None]

    inside, form, shadow = _object(value, x, y)
    light = value["light from the left"] * -x - value["vignette"] * 0.6 * (x * x + y * y)
    grain = value["roughness"] * _grain(width, height, generator)

    turn = math.radians(value["stripe orientation"])
    stripes = np.sin(2 * np.pi * value["stripe frequency"] * (x * math.cos(turn) + y * math.sin(turn)))
    background = value["background lightness"] + 0.5 * value["stripe contrast"] * stripes + light + grain
    background -= 0.2 * shadow
    # Half the light: the object's own lightness must be told apart from how it is lit.
    thing = value["object lightness"] + 0.5 * light + 0.35 * grain + 0.16 * form

    picture = _coloured(background, value["background colourfulness"], value["background hue"])
    picture += inside[..., None] * (_coloured(thing, 0.17, value["object hue"]) - picture)
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def jpeg(picture: NDArray[np.uint8], quality: int = 90) -> bytes:
    """Encode (height, width, 3) sRGB as a JPEG file."""
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _object(
    value: dict[str, float], x: NDArray[np.float32], y: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """How much of each pixel is object, how high the object's surface stands there, and how dark its shadow is."""
    size, stretch = value["object size"], math.exp(value["object elongation"])
    spikes, softness = value["object spikiness"], value["edge softness"]
    u = (x - value["object x"]) / (size * stretch)
    v = (y - value["object y"]) / (size / stretch)
    radius = np.hypot(u, v)
    # The cosine of five times the angle from the upward direction, without the angle.
    up = -v / np.maximum(radius, 1e-6)
    fivefold = up * (5 + up * up * (16 * up * up - 20))
    # The star's area is that of the disc, so that spikiness is no size.
    rim = (1 + spikes * fivefold) / math.sqrt(1 + spikes**2 / 2)
    inside = np.clip((rim - radius) * size / softness + 0.5, 0, 1)
    shadow = np.clip((rim * 1.45 - radius) / 0.6, 0, 1)
    form = (inside > 0) * (np.clip(1 - radius * radius, -0.5, 1) - 0.35 * (u - v))
    for companion in range(math.ceil(value["companions"])):
        # The last one is only as large as the count has a fraction, so that the count changes without a jump.
        radius = COMPANION * math.sqrt(min(1.0, value["companions"] - companion))
        angle = 2 * math.pi * companion / 7 - math.pi / 2
        across, down = x - RING * math.cos(angle), y - RING * math.sin(angle)
        rows, columns = np.abs(down[:, 0]) < 2 * COMPANION, np.abs(across[0]) < 2 * COMPANION
        distance, near = np.hypot(across[:, columns], down[rows]), np.ix_(rows, columns)
        inside[near] = np.maximum(inside[near], np.clip((radius - distance) / 0.008 + 0.5, 0, 1))
        shadow[near] = np.maximum(shadow[near], np.clip((1.5 * radius - distance) / 0.03, 0, 1))
    return inside, form, shadow


def _grain(width: int, height: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Unit-variance noise of two sizes, like plaster."""
    total = np.zeros((height, width), np.float32)
    for cell in (3, 10):
        shape = (height // cell + 2, width // cell + 2)
        coarse = Image.fromarray(generator.standard_normal(shape, dtype=np.float32))
        total += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return total / total.std()


def _coloured(lightness: NDArray[np.float32], chroma: float, hue: float) -> NDArray[np.float32]:
    """(height, width) lightness to (height, width, 3) sRGB, 0 to 255, of one hue.

    Source: OKLab, B. Ottosson (2020), https://bottosson.github.io/posts/oklab/; chroma fades towards black and white,
    where sRGB has none.
    """
    level = np.linspace(0, 1, LEVELS)
    faded = chroma * np.sqrt(np.clip(4 * level * (1 - level), 0, 1))
    a, b = faded * math.cos(math.radians(hue)), faded * math.sin(math.radians(hue))
    cones = np.stack(
        [
            level + 0.3963377774 * a + 0.2158037573 * b,
            level - 0.1055613458 * a - 0.0638541728 * b,
            level - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(to_linear @ cones**3, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    palette = (255 * srgb.T).astype(np.float32)
    return palette[np.clip(lightness * (LEVELS - 1) + 0.5, 0, LEVELS - 1).astype(np.int32)]
