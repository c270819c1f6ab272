import colorsys
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alignvis.recordings.drawing import FACTORS, _grain, jpeg, paint

NAMES = list(FACTORS)
COUNT = len(NAMES)


def picture(width=256, height=256, **levels):
    """A picture at the middle of every factor but some, on smooth ground."""
    latent = np.zeros(COUNT)
    latent[NAMES.index("roughness")] = -2
    for name, level in levels.items():
        latent[NAMES.index(name.replace("_", " "))] = level
    return paint(latent, width, height, np.random.default_rng(0)).astype(float)


def mask(**levels):
    """Where the object and its companions are: what changes with their hue."""
    return np.abs(picture(object_hue=1.5, **levels) - picture(object_hue=-1.5, **levels)).sum(axis=2) > 60


def big(**levels):
    """Where the object is, without companions."""
    return mask(companions=-4, **levels)


def ground(image):
    """The background's corner that no object or companion reaches."""
    return image[-40:, -40:].reshape(-1, 3)


def stripes(image):
    """Peak of the spectrum of the lightness beside the object: cycles a picture across and down, and its size."""
    grey = picture(stripe_contrast=-9, **{})[:, :, 1]
    change = (image[:, :, 1] - grey) * np.hanning(256)[:, None] * np.hanning(256)
    change[64:192, 64:192] = 0
    size = np.abs(np.fft.fftshift(np.fft.fft2(change)))
    size[126:131, 126:131] = 0
    size[:, :128] = 0
    down, across = np.unravel_index(size.argmax(), size.shape)
    return across - 128, down - 128, size.max()


def corners(image):
    return np.mean([image[:30, :30].mean(), image[:30, -30:].mean(), image[-30:, :30].mean(), image[-30:, -30:].mean()])


def spread(where, axis):
    places = np.argwhere(where)[:, axis]
    return places.std()


def outline(where):
    return np.abs(np.diff(where.astype(int), axis=0)).sum() + np.abs(np.diff(where.astype(int), axis=1)).sum()


def edge(image):
    """How steep the redness gets at the object's left edge."""
    return np.abs(np.diff(image[128, :128, 0] - image[128, :128, 1])).max()


def hue(pixels):
    """From red (0) by green (1/3) to blue (2/3); violet to red count below 0."""
    angle = colorsys.rgb_to_hsv(*pixels.reshape(-1, 3).mean(axis=0) / 255)[0]
    return angle if angle < 0.68 else angle - 1


# What anyone would measure to see a factor, and whether it rises or falls with it.
MEASURES = {
    "background hue": lambda z: hue(ground(picture(background_hue=z))),
    "background colourfulness": lambda z: np.ptp(ground(picture(background_colourfulness=z)).mean(axis=0)),
    "background lightness": lambda z: ground(picture(background_lightness=z)).mean(),
    "stripe orientation": lambda z: np.arctan2(*stripes(picture(stripe_orientation=z))[1::-1]),
    "stripe frequency": lambda z: np.hypot(*stripes(picture(stripe_frequency=z))[:2]),
    "stripe contrast": lambda z: stripes(picture(stripe_contrast=z))[2],
    "roughness": lambda z: np.abs(np.diff(picture(roughness=z)[-40:, :, 1], axis=1)).mean(),
    "light from the left": lambda z: (lambda p: p[:, :40].mean() - p[:, -40:].mean())(picture(light_from_the_left=z)),
    "vignette": lambda z: -corners(picture(vignette=z)),
    "object hue": lambda z: hue(picture(object_hue=z)[120:136, 120:136]),
    "object lightness": lambda z: picture(object_lightness=z)[120:136, 120:136].mean(),
    "object size": lambda z: big(object_size=z).sum(),
    "object x": lambda z: np.argwhere(big(object_x=z))[:, 1].mean(),
    "object y": lambda z: np.argwhere(big(object_y=z))[:, 0].mean(),
    "object elongation": lambda z: spread(big(object_elongation=z), 1) / spread(big(object_elongation=z), 0),
    "object spikiness": lambda z: outline(big(object_spikiness=z)) / np.sqrt(big(object_spikiness=z).sum()),
    "edge softness": lambda z: -edge(picture(edge_softness=z)),
    "companions": lambda z: mask(companions=z).sum(),
}


LINEAR = {
    "background hue": 0.7,
    "background colourfulness": 0.4,
    "background lightness": 0.8,
    "light from the left": 0.7,
    "object hue": 0.5,
    "object lightness": 0.6,
    "object size": 0.5,
    "object x": 0.5,
    "object y": 0.5,
}


@pytest.mark.parametrize("name", NAMES)
def test_every_factor_is_there_to_be_measured(name):
    values = [MEASURES[name](level) for level in (-1.6, -0.8, 0.0, 0.8, 1.6)]
    assert (np.diff(values) > 0).all(), values


def test_some_factors_do_not_touch_others():
    assert big(object_spikiness=1.5).sum() == pytest.approx(big(object_spikiness=-1.5).sum(), rel=0.035)
    assert big(object_elongation=1.2).sum() == pytest.approx(big(object_elongation=0).sum(), rel=0.12)
    far = np.abs(picture(object_x=-1, object_lightness=1) - picture(object_x=1, object_lightness=-1))[-30:]
    assert far.max() == 0


def test_colour_size_and_place_can_be_read_linearly_from_a_thumbnail():
    generator = np.random.default_rng(5)
    latent = generator.standard_normal((400, COUNT))
    thumbnails = []
    for z in latent:
        image = Image.fromarray(paint(z, 112, 112, generator))
        thumbnails.append(np.asarray(image.resize((16, 16), Image.Resampling.BOX), dtype=float).ravel() / 30)
    features = np.array(thumbnails)
    features -= features[:300].mean(axis=0)
    train, test = features[:300], features[300:]
    read = test @ train.T @ np.linalg.solve(train @ train.T + 300 * np.eye(300), latent[:300])
    fit = {name: np.corrcoef(read[:, k], latent[300:, k])[0, 1] for k, name in enumerate(NAMES)}
    # Chance: a correlation of 100 pairs has a standard error of 0.1.
    for name, least in LINEAR.items():
        assert fit[name] > least, fit


@settings(max_examples=25, deadline=None)
@given(
    latent=st.lists(st.floats(-40, 40), min_size=COUNT, max_size=COUNT),
    width=st.integers(64, 200),
    height=st.integers(64, 200),
)
def test_any_factors_and_size_make_a_picture(latent, width, height):
    drawn = paint(np.array(latent), width, height, np.random.default_rng(0))
    assert drawn.shape == (height, width, 3) and drawn.dtype == np.uint8
    assert drawn.std() > 0
    with Image.open(io.BytesIO(jpeg(drawn))) as image:
        assert image.format == "JPEG" and image.size == (width, height) and image.mode == "RGB"


def test_grain_is_the_generators_and_nothing_else_is():
    latent = np.random.default_rng(1).standard_normal(COUNT)
    first, again, other = (paint(latent, 96, 80, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()
    latent[NAMES.index("roughness")] = -9
    smooth = [paint(latent, 96, 80, np.random.default_rng(seed)).astype(int) for seed in (1, 2)]
    assert np.abs(smooth[0] - smooth[1]).mean() < 2


def test_grain_is_as_strong_at_every_size():
    for width, height in ((256, 256), (320, 256), (64, 100)):
        assert _grain(width, height, np.random.default_rng(0)).std() == pytest.approx(1, abs=1e-5)


def test_jpeg_keeps_what_was_drawn():
    drawn = picture(320, 256, roughness=0).astype(np.uint8)
    with Image.open(io.BytesIO(jpeg(drawn))) as image:
        assert np.abs(np.asarray(image).astype(int) - drawn).mean() < 6
    assert len(jpeg(drawn, 30)) < len(jpeg(drawn))
