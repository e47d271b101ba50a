"""Draw a frontal chest radiograph, roughly: enough anatomy that finding an opacity is a task, none that is anyone's.

Attenuation along the beam is a sum of soft shapes in coordinates x (left to right) and y (top to bottom), both in
[-1, 1]::

    T = body - lungs + heart + mediastinum + spine + ribs + clavicles + vessels + opacity

and what a detector and its software make of it is ``v = T^gamma`` with quantum noise that grows where less light
arrives. Opacities are soft, of low contrast and inside a lung; nipples, rib crossings and vessels near the hila look
similar.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating[Any]]

_RIB_SPACING = 0.165
_LUNG_X, _LUNG_Y = 0.42, -0.06
_HILUM_X, _HILUM_Y = 0.17, -0.02
_OUTLINE = 0.5


class Body(NamedTuple):
    """One patient's anatomy; lengths in units of half the image.

    Attributes:
        width: half width of the chest.
        lung_width: half width of a lung.
        lung_height: half height of a lung.
        heart: half width of the heart.
        thickness: attenuation of the chest wall, 1 in the mean.
        rib_contrast: of the bones.
        rib_phase: where the first rib stands, in spacings.
        seed: of the vessel tree.
    """

    width: float
    lung_width: float
    lung_height: float
    heart: float
    thickness: float
    rib_contrast: float
    rib_phase: float
    seed: int


class Exposure(NamedTuple):
    """One image of a patient.

    Attributes:
        shift_x: of the patient.
        shift_y: likewise.
        turn: rotation in rad.
        breath: depth of inspiration, 0 in the mean; moves the diaphragm.
        gamma: of the display curve.
        noise: standard deviation of the quantum noise at mean exposure.
        blur: weight of the smoothing that the site's software applies, 0 to 1.
    """

    shift_x: float
    shift_y: float
    turn: float
    breath: float
    gamma: float
    noise: float
    blur: float


class Blob(NamedTuple):
    """A soft round shadow: an opacity or a harmless one."""

    x: float
    y: float
    radius: float
    stretch: float
    strength: float
    edge: float


class Grid(NamedTuple):
    """Coordinates of the pixels, and filters for textures of several grain sizes (in the frequency domain)."""

    x: Plane
    y: Plane
    coarse: Plane
    fine: Plane


def make_grid(size_px: int) -> Grid:
    """Coordinates ``[size_px, size_px]`` in [-1, 1]; the filters pass about 4 and 14 waves an image side."""
    axis = ((np.arange(size_px) + 0.5) / size_px * 2 - 1).astype(np.float32)
    frequency = np.hypot(np.fft.fftfreq(size_px)[:, None], np.fft.rfftfreq(size_px)[None, :]) * size_px
    x, y = np.meshgrid(axis, axis)
    return Grid(x, y, _band(frequency, 4.0), _band(frequency, 14.0))


def draw_body(rng: np.random.Generator, *, female: bool, age: float) -> Body:
    """Anatomy of one patient; women are narrower, the old have larger hearts."""
    return Body(
        width=float(rng.normal(0.86 if female else 0.90, 0.03)),
        lung_width=float(rng.normal(0.295 if female else 0.315, 0.015)),
        lung_height=float(rng.normal(0.60, 0.035)),
        heart=float(np.clip(rng.normal(0.31 + 0.001 * (age - 50), 0.035), 0.2, 0.45)),
        thickness=float(np.clip(rng.normal(1.0, 0.12), 0.7, 1.4)),
        rib_contrast=float(np.clip(rng.normal(0.15, 0.03), 0.06, 0.24)),
        rib_phase=float(rng.uniform()),
        seed=int(rng.integers(2**31)),
    )


def draw_exposure(rng: np.random.Generator, *, noise: float, blur: float) -> Exposure:
    """How one image was taken; no two are alike."""
    return Exposure(
        shift_x=float(rng.normal(0, 0.035)),
        shift_y=float(rng.normal(0, 0.04)),
        turn=float(rng.normal(0, 0.03)),
        breath=float(rng.normal(0, 0.05)),
        gamma=float(np.exp(rng.normal(0, 0.15))),
        noise=float(noise * np.exp(rng.normal(0, 0.25))),
        blur=blur,
    )


def draw_opacities(rng: np.random.Generator, body: Body) -> tuple[Blob, ...]:
    """One to three soft shadows within the lungs; some are so faint that nobody could be sure."""
    side = float(rng.choice([-1.0, 1.0]))
    blobs = []
    for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))):
        angle, reach = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 0.55))
        blobs.append(
            _blob(
                side * _LUNG_X + body.lung_width * reach * np.cos(angle),
                _LUNG_Y + body.lung_height * reach * np.sin(angle),
                rng.uniform(0.09, 0.21),
                np.exp(rng.normal(0, 0.3)),
                np.clip(np.exp(rng.normal(-1.15, 0.38)), 0.09, 0.6),
                rng.uniform(0.25, 0.9),
            )
        )
        side *= -1 if rng.uniform() < 0.25 else 1
    return tuple(blobs)


def draw_distractors(rng: np.random.Generator, body: Body) -> tuple[Blob, ...]:
    """Shadows that mean nothing: nipples (a pair, low), clumps of vessels beside the hila, an electrode."""
    blobs = []
    if rng.uniform() < 0.35:
        height, spread = rng.normal(0.30, 0.05), rng.normal(0.47, 0.04)
        strength = rng.uniform(0.06, 0.20)
        blobs += [_blob(s * spread, height, 0.045, 1.0, strength * rng.uniform(0.5, 1), 0.1) for s in (-1.0, 1.0)]
    for _ in range(int(rng.poisson(0.6))):
        side = float(rng.choice([-1.0, 1.0]))
        x, y = side * rng.normal(_HILUM_X + 0.09, 0.03), rng.normal(_HILUM_Y + 0.05, 0.09)
        blobs.append(_blob(x, y, rng.uniform(0.05, 0.10), rng.uniform(0.6, 1.6), rng.uniform(0.06, 0.20), 0.8))
    if rng.uniform() < 0.15:
        blobs.append(_blob(rng.normal(0, 0.4), rng.normal(-0.1, 0.3), 0.025, 1.0, 0.35, 0.0))
    return tuple(blobs)


def render(grid: Grid, body: Body, exposure: Exposure, blobs: Sequence[Blob], rng: np.random.Generator) -> Plane:
    """The image.

    Args:
        grid: of the wanted size.
        body: anatomy.
        exposure: position and quality.
        blobs: opacities and distractors.
        rng: of the noise.

    Returns:
        float32 ``[size_px, size_px]``, 0 where the beam meets only air, about 1 behind the heart; larger is denser.
    """
    x, y = _moved(grid, exposure)
    anatomy = np.random.default_rng(body.seed)
    coarse, fine = _texture(anatomy, grid.coarse), _texture(anatomy, grid.fine)
    outline, lungs = _outline(x, y, body), _lungs(x, y, body, exposure.breath)
    inside = np.clip(lungs, 0, 1)
    dense = body.thickness * 0.62 * outline * (1 + 0.04 * coarse)
    dense -= 0.43 * body.thickness * inside
    dense += _mediastinum(x, y, body) * outline
    dense += body.rib_contrast * _bones(x, y, body) * outline
    dense += _vessels(x, y, fine, coarse) * inside
    for blob in blobs:
        dense += _shadow(x, y, blob, coarse) * (0.25 + 0.75 * inside) * outline
    return _exposed(np.maximum(dense, 0), exposure, rng)


def opacity_mask(grid: Grid, body: Body, exposure: Exposure, opacities: Sequence[Blob]) -> NDArray[np.bool_]:
    """Where an opacity casts at least half of its own deepest shadow, bool ``[size_px, size_px]``.

    A reader who outlines a soft shadow follows about this contour; it says nothing of how faint the opacity is.
    """
    x, y = _moved(grid, exposure)
    coarse = _texture(np.random.default_rng(body.seed), grid.coarse)
    shown = np.zeros(x.shape, np.bool_)
    for blob in opacities:
        shown |= _shadow(x, y, blob._replace(strength=1.0), coarse) >= _OUTLINE
    return shown


def _blob(*values: float) -> Blob:
    # Plain floats: a NumPy float64 scalar would turn every float32 plane it meets into float64.
    return Blob(*map(float, values))


def _band(frequency: NDArray[np.float64], waves: float) -> Plane:
    shape = np.exp(-0.5 * np.log(np.maximum(frequency, 1e-6) / waves) ** 2 / 0.45**2)
    return (shape * (frequency > 0)).astype(np.float32)


def _texture(rng: np.random.Generator, band: Plane) -> Plane:
    """Random texture of one grain size, mean 0, standard deviation 1; the same at every image size."""
    side = band.shape[0]
    keep = min(32, side // 2)
    spectrum = np.zeros((side, side // 2 + 1), np.complex64)
    low = rng.standard_normal((2 * keep, keep, 2)).astype(np.float32)
    rows = np.r_[0:keep, side - keep : side]
    spectrum[rows, :keep] = low[..., 0] + 1j * low[..., 1]
    plane = np.fft.irfft2(spectrum * band, s=(side, side)).astype(np.float32)
    deviation = plane.std()
    return plane / deviation if deviation > 0 else plane


def _step(value: Plane, softness: float) -> Plane:
    """Smooth step from 0 (value below 0) to 1."""
    scaled: Plane = np.tanh(value * np.float32(0.5 / softness))
    return 0.5 + 0.5 * scaled


def _moved(grid: Grid, exposure: Exposure) -> tuple[Plane, Plane]:
    cos, sin = np.float32(np.cos(exposure.turn)), np.float32(np.sin(exposure.turn))
    x, y = grid.x - np.float32(exposure.shift_x), grid.y - np.float32(exposure.shift_y)
    return cos * x + sin * y, cos * y - sin * x


def _outline(x: Plane, y: Plane, body: Body) -> Plane:
    """Neck, shoulders and chest; thicker where the beam grazes the flank."""
    half = 0.20 + (body.width - 0.20) * _step(y + 0.80 - 0.12 * np.abs(x), 0.045)
    flank = np.exp(-(((half - np.abs(x)) / 0.10) ** 2))
    outline: Plane = _step(half - np.abs(x), 0.015) * (1 + 0.18 * flank * (y > -0.8))
    return outline


def _lungs(x: Plane, y: Plane, body: Body, breath: float) -> Plane:
    """Egg-shaped fields above two domes; deeper in the middle."""
    total = np.zeros_like(x)
    for side in (-1.0, 1.0):
        lift = 0.06 if side < 0 else 0.0  # the liver lifts the right dome, which is on the left of the image
        v = (y - _LUNG_Y) / body.lung_height
        u = (x - side * (_LUNG_X + 0.05 * v)) / (body.lung_width * (1 + 0.16 * v))
        depth = 1 - np.sqrt(np.abs(u)) * u * u - np.sqrt(np.abs(v)) * v * v
        dome = 0.47 + breath - lift + 1.6 * (x - side * 0.36) ** 2
        total += _step(depth, 0.07) * _step(dome - y, 0.018) * (0.72 + 0.28 * np.clip(depth, 0, 1))
    return total


def _mediastinum(x: Plane, y: Plane, body: Body) -> Plane:
    """Heart (to the patient's left), great vessels, spine with its discs, trachea."""
    u, v = (x - 0.09) / body.heart, (y - 0.28) / (0.80 * body.heart + 0.04)
    heart = 0.25 * _step(1 - u * u - v * v - 0.7 * u * v, 0.14)
    band = 0.24 * _step(0.125 - np.abs(x) + 0.03 * np.cos(5 * y), 0.022) * _step(y + 0.72, 0.05)
    aorta = 0.12 * np.exp(-(((x - 0.13) / 0.06) ** 2) - ((y + 0.30) / 0.09) ** 2)
    spine = (0.10 + 0.02 * np.cos(2 * np.pi * y / 0.14)) * _step(0.07 - np.abs(x), 0.012)
    trachea = 0.14 * _step(0.035 - np.abs(x), 0.012) * _step(-0.18 - y, 0.03)
    hila = sum(np.exp(-(((x - s * _HILUM_X) / 0.07) ** 2) - ((y - _HILUM_Y) / 0.13) ** 2) for s in (-1.0, 1.0))
    total: Plane = np.hypot(heart, band) + aorta + spine - trachea + 0.10 * hila
    return total


def _bones(x: Plane, y: Plane, body: Body) -> Plane:
    """Back ribs fall outwards, front ribs (fainter) rise again; clavicles on top."""
    reach = np.abs(x)
    posterior = _bars(y - 0.42 * reach - 0.45 * reach**2, body.rib_phase, 0.21)
    anterior = _bars(y + 0.85 * reach - 0.25, body.rib_phase + 0.37, 0.24) * _step(reach - 0.30, 0.05)
    cage = _step(y + 0.70, 0.03) * _step(0.52 - y, 0.05) * _step(reach - 0.07, 0.02)
    line = y + 0.60 + 0.18 * (reach - 0.1) - 0.10 * np.sin(4 * reach)
    clavicle = np.exp(-((line / 0.032) ** 2)) * _step(reach - 0.09, 0.02) * _step(0.68 - reach, 0.03)
    bones: Plane = (0.75 * posterior + 0.45 * anterior) * cage + 1.1 * clavicle
    return bones


def _bars(height: Plane, phase: float, width: float) -> Plane:
    """Repeated bars with dense edges, as a tube shows."""
    offset = (height / _RIB_SPACING + np.float32(phase)) % 1 - 0.5
    body = _step(width - np.abs(offset), 0.035)
    edge = np.exp(-(((np.abs(offset) - width) / 0.06) ** 2))
    bars: Plane = 0.7 * body + 0.45 * edge
    return bars


def _vessels(x: Plane, y: Plane, fine: Plane, coarse: Plane) -> Plane:
    """Ridges of a texture, dense near the hila and fading outwards, over a faint general haze."""
    distance = np.hypot(np.abs(x) - _HILUM_X, 0.8 * (y - _HILUM_Y))
    ridges = np.exp(-((fine / 0.35) ** 2))
    vessels: Plane = (0.15 * np.exp(-distance / 0.22) + 0.025) * ridges + 0.030 * coarse
    return vessels


def _shadow(x: Plane, y: Plane, blob: Blob, coarse: Plane) -> Plane:
    u, v = (x - blob.x) * blob.stretch**0.5, (y - blob.y) / blob.stretch**0.5
    radius = blob.radius * np.maximum(1 + 0.22 * blob.edge * coarse, 0.3)
    distance = np.hypot(u, v) / radius
    shadow: Plane = blob.strength * np.exp(-(distance * distance) * np.sqrt(distance))
    return shadow


def _exposed(dense: Plane, exposure: Exposure, rng: np.random.Generator) -> Plane:
    """Display curve, software blur and quantum noise; the noise grows with attenuation (fewer photons arrive)."""
    value = dense**exposure.gamma
    noise = rng.standard_normal(dense.shape, dtype=np.float32) * np.float32(exposure.noise)
    value = value + noise * np.exp(0.9 * np.minimum(dense, 1.5)) * (0.3 + 0.7 * np.minimum(dense / 0.1, 1))
    near = (np.roll(value, 1, 0) + np.roll(value, -1, 0) + np.roll(value, 1, 1) + np.roll(value, -1, 1)) / 4
    mixed: Plane = (value + exposure.blur * (near - value)).astype(np.float32)
    return mixed
