"""Synthetic frontal chest radiographs with known lungs, opacities and planted shortcuts.

They are drawn, not measured: attenuation of tissues is summed along the beam and turned into grey levels. They are
for teaching and testing, where the right answer must be known. No network was trained on them.

Opacities follow Haghanifar et al. §5 (doi:10.1007/s11042-022-12156-z): COVID-19 tends to bilateral, peripheral
ground glass in the lower zones, other pneumonia to a consolidation in one lobe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import splev, splprep

from cxnet.errors import SettingsError

Finding = Literal["none", "ground-glass", "consolidation"]
Shortcut = Literal["none", "marker", "text", "border", "stripes", "contrast"]

Field = NDArray[np.float64]

# Outlines in units of the picture's side (x to the right, y down); image left is the patient's right.
_RIGHT_LUNG = [
    (0.375, 0.115), (0.300, 0.150), (0.225, 0.245), (0.175, 0.370), (0.145, 0.520), (0.130, 0.660), (0.125, 0.765),
    (0.185, 0.722), (0.265, 0.695), (0.345, 0.705), (0.405, 0.735), (0.418, 0.640), (0.415, 0.520), (0.425, 0.400),
    (0.430, 0.280), (0.425, 0.180),
]  # fmt: skip
_LEFT_LUNG = [
    (0.620, 0.115), (0.695, 0.150), (0.770, 0.245), (0.820, 0.370), (0.850, 0.520), (0.868, 0.670), (0.875, 0.795),
    (0.825, 0.758), (0.765, 0.738), (0.718, 0.748), (0.700, 0.690), (0.655, 0.600), (0.610, 0.520), (0.585, 0.430),
    (0.592, 0.370), (0.575, 0.280), (0.572, 0.180),
]  # fmt: skip
_HEART = [
    (0.430, 0.480), (0.410, 0.570), (0.408, 0.660), (0.440, 0.735), (0.530, 0.775), (0.640, 0.785), (0.712, 0.758),
    (0.708, 0.690), (0.660, 0.600), (0.610, 0.510), (0.580, 0.440), (0.500, 0.420),
]  # fmt: skip
_BODY = [
    (0.405, -0.05), (0.400, 0.045), (0.330, 0.090), (0.180, 0.120), (0.060, 0.185), (-0.06, 0.300), (-0.06, 0.520),
    (-0.005, 0.520), (0.012, 0.620), (0.010, 0.800), (-0.02, 1.060), (1.020, 1.060), (0.990, 0.800), (0.988, 0.620),
    (1.005, 0.520), (1.060, 0.520), (1.060, 0.300), (0.940, 0.185), (0.820, 0.120), (0.670, 0.090), (0.600, 0.045),
    (0.595, -0.05),
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic radiograph and the truth about it.

    Parameters
    ----------
    pixels : uint8 array (size, size)
    lungs : bool array (size, size)
        Aerated lung fields as seen on film: without heart, mediastinum and what lies below the diaphragm.
    lesions : bool array (size, size)
        Pixels that the opacities changed by more than two grey levels; empty without a finding.
    shortcut : bool array (size, size)
        Pixels that the planted shortcut changed; empty for none, and for "contrast", which has no place.
    seed : int
    finding, shortcut_kind : str
    """

    pixels: NDArray[np.uint8]
    lungs: NDArray[np.bool_]
    lesions: NDArray[np.bool_]
    shortcut: NDArray[np.bool_]
    seed: int
    finding: Finding
    shortcut_kind: Shortcut

    def __post_init__(self) -> None:
        for name in ("pixels", "lungs", "lesions", "shortcut"):
            getattr(self, name).setflags(write=False)


@dataclass(frozen=True)
class Sample:
    """A built-in sample of the app: arguments of :func:`make_phantom`, a name and a sentence about it."""

    name: str
    title: str
    seed: int
    finding: Finding
    shortcut: Shortcut
    caption: str

    def make(self, size_px: int = 768) -> Phantom:
        """Draw it."""
        return make_phantom(self.seed, size_px, self.finding, self.shortcut)


SAMPLES = (
    Sample("normal", "Clear lungs", 1, "none", "none", "Synthetic radiograph without a finding."),
    Sample(
        "ground-glass",
        "Ground glass, both sides",
        2,
        "ground-glass",
        "none",
        "Synthetic radiograph: hazy opacities at the edge of both lower zones, vessels still show through.",
    ),
    Sample(
        "consolidation",
        "Lobar consolidation",
        3,
        "consolidation",
        "none",
        "Synthetic radiograph: one dense lobe with dark airways in it.",
    ),
    Sample(
        "normal-marker",
        "Clear lungs, side marker",
        1,
        "none",
        "marker",
        "Synthetic radiograph: as the first, plus a marker.",
    ),
    Sample(
        "ground-glass-text",
        "Ground glass, burned-in text",
        2,
        "ground-glass",
        "text",
        "Synthetic radiograph: does the text change the answer? It should not.",
    ),
    Sample(
        "normal-border",
        "Clear lungs, bright border",
        1,
        "none",
        "border",
        "Synthetic radiograph with a frame around it.",
    ),
    Sample(
        "consolidation-stripes",
        "Consolidation, stripes",
        3,
        "consolidation",
        "stripes",
        "Synthetic radiograph with two bright stripes, as a bad detector column leaves.",
    ),
    Sample(
        "normal-contrast",
        "Clear lungs, other contrast",
        1,
        "none",
        "contrast",
        "Synthetic radiograph: as the first, as another scanner would show it; no map can point to that.",
    ),
)


def make_phantom(seed: int = 0, size_px: int = 512, finding: Finding = "none", shortcut: Shortcut = "none") -> Phantom:
    """Draw a synthetic radiograph.

    Parameters
    ----------
    seed : int
        Decides anatomy, noise and the place of opacities. Pictures of one seed and size differ only where
        something was planted.
    size_px : int
        Side of the square picture, 64 to 2048.
    finding : {"none", "ground-glass", "consolidation"}
    shortcut : {"none", "marker", "text", "border", "stripes", "contrast"}

    Returns
    -------
    Phantom

    Raises
    ------
    SettingsError
        If a value is not one of these.
    """
    if finding not in get_args(Finding) or shortcut not in get_args(Shortcut):
        raise SettingsError(f"A phantom knows no finding {finding!r} with shortcut {shortcut!r}.")
    if not 64 <= size_px <= 2048 or seed < 0:
        raise SettingsError(f"A phantom needs a seed of at least 0 and 64 to 2048 px; received {seed}, {size_px}.")
    anatomy = _Anatomy(seed, size_px)
    plain = anatomy.expose(np.zeros((size_px, size_px)))
    pixels = plain
    if finding != "none":
        opacity = anatomy.ground_glass() if finding == "ground-glass" else anatomy.consolidation()
        pixels = anatomy.expose(opacity)
    lesions = np.abs(pixels.astype(int) - plain) > 2
    planted = _plant(pixels, shortcut)
    spatial = shortcut != "contrast"
    changed = (planted != pixels) if spatial else np.zeros(pixels.shape, np.bool_)
    return Phantom(planted, anatomy.lungs > 0.5, lesions, np.asarray(changed), seed, finding, shortcut)


def _plant(pixels: NDArray[np.uint8], shortcut: Shortcut) -> NDArray[np.uint8]:
    size = len(pixels)
    planted = pixels.copy()
    line = max(1, round(size / 128))
    if shortcut == "marker":
        cv2.putText(
            planted,
            "R",
            (round(0.05 * size), round(0.15 * size)),
            cv2.FONT_HERSHEY_DUPLEX,
            size / 300,
            252,
            line,
            cv2.LINE_AA,
        )
    elif shortcut == "text":
        cv2.putText(planted, "CXR-ROOM1", (round(0.03 * size), round(0.965 * size)), cv2.FONT_HERSHEY_SIMPLEX, size / 560, 250, max(1, line // 2), cv2.LINE_AA)  # fmt: skip
    elif shortcut == "border":
        width = max(1, round(size / 64))
        planted[:width] = planted[-width:] = planted[:, :width] = planted[:, -width:] = 245
    elif shortcut == "stripes":
        for first in (20 / 320, 295 / 320):
            planted[:, round(first * size) : round((first + 5 / 320) * size)] = 240
    elif shortcut == "contrast":
        planted = np.rint(255 * np.clip((pixels / 255.0) ** 1.5 * 1.12 + 0.03, 0, 1)).astype(np.uint8)
    return planted


class _Anatomy:
    """Attenuation maps of one seed, and their exposure."""

    def __init__(self, seed: int, size: int) -> None:
        self.size = size
        self.rng = [np.random.default_rng([seed, part]) for part in range(8)]
        draw = self.rng[0]
        self.angle = draw.normal(0, 0.015)
        self.scale = (draw.uniform(0.95, 1.06), draw.uniform(0.95, 1.05))
        self.shift = draw.normal(0, 0.010, 2)
        self.heart = draw.uniform(0.92, 1.08)
        self.habitus = draw.uniform(0.9, 1.2)
        self.wobble = draw.normal(0, 0.004, (2, 40))
        self.body = self._fill(_BODY)
        right, left = self._fill(_RIGHT_LUNG, 0), self._fill(_LEFT_LUNG, 1)
        middle = np.array([0.52, 0.60])
        heart = [tuple(middle + (np.array(p) - middle) * self.heart) for p in _HEART]
        self.heart_mask = self._fill(heart)
        self.sides = (right, np.clip(left - self.heart_mask, 0, 1))
        self.lungs = np.clip(self.sides[0] + self.sides[1], 0, 1)
        self.base = self._attenuation()
        inside = self.base[self.lungs > 0.5]
        self.tone = (float(np.percentile(inside, 5)), float(np.percentile(self.base[self.body > 0.5], 97)))
        noise = self.rng[1].normal(0, 1, (size, size))
        self.noise = cv2.GaussianBlur(noise, (0, 0), max(0.45, size / 900)) * 1.4

    # ------------------------------------------------------------------------------------------------- drawing

    def _place(self, points: Any) -> Field:
        """Points in the picture's units, moved as this patient stands, in pixels."""
        p = (np.asarray(points, float) - (0.5, 0.45)) * self.scale
        c, s = np.cos(self.angle), np.sin(self.angle)
        p = p @ np.array([[c, s], [-s, c]]) + (0.5, 0.45) + self.shift
        return np.asarray(p * self.size, np.float64)

    def _spline(self, points: Any, closed: bool, count: int = 200) -> Field:
        points = np.asarray(points, float)
        if closed:
            points = np.vstack([points, points[:1]])
        curve, _ = splprep(points.T, s=0, per=closed, k=min(3, len(points) - 1))
        return np.stack(splev(np.linspace(0, 1, count), curve), axis=1)

    def _fill(self, points: Any, wobble: int | None = None) -> Field:
        """A smooth closed outline as a mask with soft edges, 0 to 1."""
        points = np.asarray(points, float)
        if wobble is not None:
            points = points + self.wobble[:, : len(points)].T * (1 if wobble == 0 else -1)
        outline = self._place(self._spline(points, closed=True))
        mask = np.zeros((self.size, self.size), np.uint8)
        cv2.fillPoly(mask, [np.rint(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        return mask / 255.0

    def _stroke(self, points: Any, width: float, spline: bool = True) -> Field:
        """A curve as a band of `width` (in sides), 0 to 1."""
        mask = np.zeros((self.size, self.size))
        window, band = self._stroke_window(points, width, spline)
        mask[window] = band
        return mask

    def _stroke_window(self, points: Any, width: float, spline: bool) -> tuple[tuple[slice, slice], Field]:
        """A band and the window that holds it: most bands are small."""
        line = self._place(self._spline(points, closed=False, count=60) if spline else points)
        thickness = max(1, round(width * self.size))
        low = np.clip(np.floor(line.min(axis=0)).astype(int) - thickness - 2, 0, self.size)
        high = np.clip(np.ceil(line.max(axis=0)).astype(int) + thickness + 3, 0, self.size)
        mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        outline = np.rint(line * 16).astype(np.int32) - 16 * low.astype(np.int32)
        if mask.size:
            cv2.polylines(mask, [outline], False, 255, thickness, cv2.LINE_AA, 4)
        return (slice(low[1], high[1]), slice(low[0], high[0])), mask / 255.0

    def _blur(self, field: Field, sigma: float) -> Field:
        """A Gaussian blur, done only where it can change something."""
        sigma_px = max(0.3, sigma * self.size)
        reach = int(np.ceil(4 * sigma_px)) + 2
        blurred = np.zeros_like(field)
        rows, columns = (np.flatnonzero(field.any(axis=axis)) for axis in (1, 0))
        if len(rows):
            window = tuple(slice(max(0, at[0] - reach), at[-1] + reach + 1) for at in (rows, columns))
            blurred[window] = cv2.GaussianBlur(field[window], (0, 0), sigma_px)
        return blurred

    def _dome(self, mask: Field, reach: float) -> Field:
        """Thickness of a rounded body: 0 at its edge, 1 from `reach` inwards."""
        distance = cv2.distanceTransform((mask > 0.5).astype(np.uint8), cv2.DIST_L2, 5) / (reach * self.size)
        return np.asarray(np.sqrt(np.clip(1 - (1 - np.clip(distance, 0, 1)) ** 2, 0, 1)), np.float64)

    def _bone(self, band: Field, width: float, cortex: float = 0.55) -> Field:
        """A tube of bone: spongy inside, brighter at both edges."""
        inner = self._blur(band, width * 0.16)
        edge = np.clip(inner - self._blur(band, width * 0.42), 0, None)
        return np.asarray(inner * (1 - cortex) + 2.2 * cortex * edge, np.float64)

    # ------------------------------------------------------------------------------------------------- tissues

    def _attenuation(self) -> Field:
        size = self.size
        y = np.mgrid[:size, :size][0] / size
        body = self._blur(self._dome(self.body, 0.16), 0.006)
        soft = body * (1.25 + 0.42 * np.clip((y - 0.62) / 0.3, 0, 1)) * self.habitus
        # Air takes the place of tissue: deepest in the middle of each lung, thinner towards apex and edge.
        air = sum(self._blur(self._dome(side, 0.11), 0.003) for side in self.sides)
        self.air = np.asarray(air * (0.70 + 0.22 * np.clip((y - 0.12) / 0.35, 0, 1)), np.float64)
        total = soft - 0.98 * self.air
        abdomen = self._fill(
            [
                (0.08, 0.80),
                (0.26, 0.72),
                (0.42, 0.76),
                (0.58, 0.80),
                (0.76, 0.76),
                (0.92, 0.83),
                (0.95, 1.1),
                (0.05, 1.1),
            ]
        )
        total = total + 0.25 * self._blur(abdomen, 0.012) * (1 - 0.8 * self.lungs)
        total = total + 0.34 * self._blur(self.heart_mask, 0.006) * self._dome(self.heart_mask, 0.14)
        total = total + self._mediastinum() + self._bones() + self._vessels() + self._soft_tissue()
        bubble = self._fill([(0.66, 0.80), (0.72, 0.775), (0.79, 0.79), (0.80, 0.84), (0.73, 0.86), (0.67, 0.845)])
        return np.asarray(total - 0.30 * self._blur(bubble, 0.008), np.float64)

    def _mediastinum(self) -> Field:
        vessels = self._fill([(0.435, 0.10), (0.43, 0.30), (0.42, 0.50), (0.56, 0.50), (0.575, 0.36), (0.565, 0.10)])
        knob = self._fill([(0.55, 0.285), (0.595, 0.29), (0.608, 0.325), (0.59, 0.365), (0.55, 0.37)])
        trachea = self._stroke([(0.503, -0.02), (0.500, 0.15), (0.494, 0.32)], 0.036)
        bronchi = self._stroke([(0.494, 0.315), (0.455, 0.375), (0.42, 0.40)], 0.021)
        bronchi = np.maximum(bronchi, self._stroke([(0.494, 0.315), (0.545, 0.385), (0.59, 0.415)], 0.017))
        field = 0.24 * self._blur(vessels, 0.010) + 0.16 * self._blur(knob, 0.006)
        return np.asarray(field - 0.20 * self._blur(np.maximum(trachea, 0.55 * bronchi), 0.004), np.float64)

    def _bones(self) -> Field:
        bones = np.zeros((self.size, self.size))
        draw = self.rng[2]
        lift = draw.normal(0, 0.004)
        for side in (-1, 1):

            def mirror(points: list[tuple[float, float]], side: int = side) -> list[tuple[float, float]]:
                return [(0.5 + side * x, y) for x, y in points]

            for rib in range(10):
                top = 0.115 + 0.066 * rib + lift
                out = 0.20 + 0.182 * (1 - np.exp(-(rib + 0.35) / 2.0))
                fall = 0.055 + 0.017 * rib
                back = mirror(
                    [
                        (0.030, top + 0.012),
                        (0.09, top - 0.010),
                        (0.40 * out + 0.04, top - 0.006 + 0.10 * fall),
                        (0.78 * out, top + 0.48 * fall),
                        (0.96 * out, top + 1.05 * fall),
                        (out, top + 1.55 * fall),
                    ]
                )
                width = 0.0195 + 0.0006 * rib
                strength = 0.21 if rib else 0.15
                bones += strength * self._bone(self._stroke(back, width), width)
                if rib < 7:
                    front = mirror(
                        [
                            (out, top + 1.50 * fall),
                            (0.90 * out, top + 2.05 * fall + 0.012),
                            (0.66 * out, top + 2.55 * fall + 0.032),
                            (0.40 * out + 0.03, top + 2.85 * fall + 0.048),
                        ]
                    )
                    bones += 0.11 * self._bone(self._stroke(front, width * 1.12), width)
            clavicle = mirror([(0.050, 0.185), (0.11, 0.163), (0.20, 0.150), (0.29, 0.128), (0.40, 0.112)])
            bones += 0.30 * self._bone(self._stroke(clavicle, 0.030), 0.030)
            blade = mirror(
                [(0.335, 0.16), (0.315, 0.25), (0.325, 0.35), (0.385, 0.46), (0.43, 0.42), (0.45, 0.25), (0.44, 0.16)]
            )
            mask = self._fill(blade)
            bones += 0.055 * self._blur(mask, 0.004) + 0.09 * np.clip(mask - self._blur(mask, 0.010), 0, None)
            arm = mirror([(0.47, 0.16), (0.50, 0.25), (0.53, 0.40)])
            bones += 0.26 * self._bone(self._stroke(arm, 0.06), 0.06, 0.4)
        for vertebra in range(17):
            y = 0.03 + 0.060 * vertebra
            block = [(0.462, y), (0.538, y), (0.541, y + 0.046), (0.459, y + 0.046)]
            body = self._fill(block)
            bones += 0.15 * self._blur(body, 0.005) + 0.08 * np.clip(body - self._blur(body, 0.006), 0, None)
            process = self._stroke([(0.5, y + 0.030), (0.5, y + 0.050)], 0.010, spline=False)
            bones += 0.06 * self._blur(process, 0.003)
        return bones

    def _vessels(self) -> Field:
        """Arteries and veins that branch from the hila, denser and wider in the lower zones."""
        field = np.zeros((self.size, self.size))
        draw = self.rng[3]
        for side, (x, y) in ((0, (0.408, 0.435)), (1, (0.605, 0.415))):
            outward = -1 if side == 0 else 1
            tree = np.zeros((self.size, self.size))
            todo = [
                (x, y, a, 0.0135 * draw.uniform(0.8, 1.15)) for a in np.deg2rad((-78, -52, -28, -5, 18, 38, 56, 74, 88))
            ]
            while todo:
                px, py, angle, width = todo.pop()
                steps = [(px, py)]
                for _ in range(int(draw.integers(3, 6))):
                    angle += draw.normal(0, 0.13)
                    px += outward * np.cos(angle) * 0.017
                    py += np.sin(angle) * 0.017
                    steps.append((px, py))
                window, band = self._stroke_window(steps, width, spline=False)
                branch, before = 11.0 * width * band * (0.75 if py < 0.40 else 1.0), tree[window]
                tree[window] = np.maximum(before, branch) + 0.25 * np.minimum(before, branch)  # crossings add a little
                if width > 0.0026:
                    for turn in (draw.uniform(0.18, 0.50), -draw.uniform(0.18, 0.50)):
                        todo.append((px, py, angle + turn, width * draw.uniform(0.62, 0.80)))
            hilum = self._fill(
                [
                    (x - 0.022, y - 0.045),
                    (x + 0.024, y - 0.04),
                    (x + 0.026, y + 0.05),
                    (x, y + 0.075),
                    (x - 0.026, y + 0.045),
                ]
            )
            field += (1.7 * self._blur(tree, 0.0016) + 0.15 * self._blur(hilum, 0.016)) * self._blur(
                self.sides[side], 0.004
            )
        texture = self._blur(draw.normal(0, 1, (self.size, self.size)), 0.004)
        return np.asarray(field + 0.014 * texture / texture.std() * self.lungs, np.float64)

    def _soft_tissue(self) -> Field:
        draw = self.rng[4]
        breasts = draw.uniform(0, 0.11) if draw.random() < 0.5 else 0.0
        field = np.zeros((self.size, self.size))
        for side in (-1, 1):
            breast = [
                (0.5 + side * x, y)
                for x, y in ((0.10, 0.58), (0.30, 0.54), (0.40, 0.64), (0.36, 0.76), (0.22, 0.80), (0.10, 0.74))
            ]
            field += breasts * self._blur(self._fill(breast), 0.018)
        waves = self._blur(draw.normal(0, 1, (self.size, self.size)), 0.05)
        return np.asarray(field + 0.02 * waves / waves.std() * self.body, np.float64)

    # ---------------------------------------------------------------------------------------------- opacities

    def _texture(self, draw: np.random.Generator, sigma: float) -> Field:
        noise = self._blur(draw.normal(0, 1, (self.size, self.size)), sigma)
        return np.asarray(np.clip(0.5 + 0.5 * noise / noise.std(), 0, 1.4), np.float64)

    def ground_glass(self) -> Field:
        """Extra attenuation of hazy patches at the outer edge of both lower and middle zones."""
        draw = self.rng[5]
        field = np.zeros((self.size, self.size))
        for side, outward in ((0, -1), (1, 1)):
            patches = np.zeros_like(field)
            for _ in range(int(draw.integers(3, 5))):
                x, y = 0.5 + outward * draw.uniform(0.235, 0.325), draw.uniform(0.48, 0.68)
                rx, ry = draw.uniform(0.045, 0.075), draw.uniform(0.05, 0.085)
                turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)
                radius = draw.uniform(0.75, 1.25, 12)
                blob = self._fill(np.stack([x + rx * radius * np.cos(turn), y + ry * radius * np.sin(turn)], axis=1))
                patches = np.maximum(patches, draw.uniform(0.7, 1.0) * self._blur(blob, 0.020))
            field += patches * self._blur(self.sides[side], 0.002) * self.sides[side]
        return np.asarray(0.80 * self.air * field * (0.70 + 0.42 * self._texture(draw, 0.011)), np.float64)

    def consolidation(self) -> Field:
        """Extra attenuation of one lobe, sharply bounded by its fissure, with air bronchograms."""
        draw = self.rng[6]
        right = bool(draw.random() < 0.6)
        outward, side = (-1, 0) if right else (1, 1)
        if right:  # upper lobe, above the horizontal fissure
            lobe = [(0.44, 0.06), (0.44, 0.445), (0.34, 0.435), (0.24, 0.455), (0.12, 0.48), (0.10, 0.25), (0.25, 0.08)]
        else:  # lower lobe behind an oblique edge
            lobe = [(0.60, 0.52), (0.70, 0.47), (0.80, 0.50), (0.92, 0.56), (0.92, 0.85), (0.66, 0.82)]
        mask = self._blur(self._fill(lobe), 0.0035) * self._blur(self.sides[side], 0.0015) * self.sides[side]
        airways = np.zeros_like(mask)
        start = (0.42, 0.39) if right else (0.61, 0.47)
        for angle in np.deg2rad((-70, -48, -25) if right else (20, 42, 62)):
            x, y = start
            steps = [start]
            for _ in range(9):
                angle += draw.normal(0, 0.10)
                x, y = x + outward * 0.021 * np.cos(angle), y + 0.021 * np.sin(angle)
                steps.append((x, y))
            airways = np.maximum(airways, self._stroke(steps, 0.0075, spline=False))
        density = 0.60 + 0.16 * self._texture(draw, 0.020)
        return np.asarray(0.95 * self.air * mask * density * (1 - 0.42 * self._blur(airways, 0.0022)), np.float64)

    # ----------------------------------------------------------------------------------------------- exposure

    def expose(self, opacity: Field) -> NDArray[np.uint8]:
        """Grey levels of the base attenuation plus an opacity: scatter, focal blur, detector curve, noise.

        Curve and noise depend on the seed alone, so two exposures differ only where the opacity is.
        """
        low, high = self.tone
        density = self._blur(self.base + opacity, 0.0012)
        level = (density - low) / (high - low)
        level = 0.09 + 0.80 * level
        level = np.where(level > 0.78, 0.78 + 0.20 * np.tanh((level - 0.78) / 0.20), level)
        level = np.where(level < 0.08, 0.08 * np.exp((level - 0.08) / 0.10), level)
        grain = self.noise * (0.006 + 0.010 * np.sqrt(np.clip(level, 0.02, 1)))
        return np.asarray(np.clip(np.rint(255 * (level + grain)), 0, 255), np.uint8)
