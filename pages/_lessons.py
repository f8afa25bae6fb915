"""Planted shortcuts, readings before the machine's answer, and tales that the literature tells. Knows no page."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from cxnet.enhance import Grey
from cxnet.errors import SettingsError
from cxnet.phantom import Finding, make_phantom
from cxnet.radiograph import Radiograph

Plant = Literal["tag", "stripes", "polygon", "border", "contrast"]

#: Shortcut → what the page calls it.
PLANTS: dict[Plant, str] = {
    "tag": "Corner tag",
    "stripes": "Bright stripes",
    "polygon": "Dark polygon",
    "border": "Bright border",
    "contrast": "Other contrast",
}

#: Shortcut → what leaves such a trace in a hospital.
ORIGINS: dict[Plant, str] = {
    "tag": "Text that one hospital or one portable machine burns into its radiographs.",
    "stripes": "Defective detector columns, or a cassette's edge: a sign of one machine.",
    "polygon": "A collimator blade or a lead apron at the picture's lower corner.",
    "border": "A frame that an export or a scan of film leaves behind.",
    "contrast": "Another manufacturer's processing. It is everywhere, so no map can point at it.",
}


def plant(pixels: Grey, kind: Plant, strength: float = 1.0) -> Grey:
    """Draw a shortcut into a radiograph of any shape.

    Parameters
    ----------
    pixels : uint8 array (height, width)
    kind : str
        A key of :data:`PLANTS`.
    strength : float
        0 leaves the picture as it is, 1 covers what lies below, or changes the contrast fully.

    Returns
    -------
    uint8 array (height, width)

    Raises
    ------
    SettingsError
        If the kind is unknown or the strength is not from 0 to 1.
    """
    if kind not in PLANTS or not 0 <= strength <= 1:
        raise SettingsError(
            f"Plant one of {', '.join(PLANTS)} with a strength from 0 to 1; received {kind!r}, {strength}."
        )
    drawn = _draw(pixels, kind)
    mixed = pixels + strength * (drawn.astype(np.float64) - pixels)
    return np.asarray(np.rint(mixed), np.uint8)


def _draw(pixels: Grey, kind: Plant) -> NDArray[np.uint8]:
    """The shortcut at full strength. Sizes follow the shorter side."""
    height, width = pixels.shape
    side = min(height, width)
    drawn = pixels.copy()
    if kind == "tag":
        place, line = (round(0.04 * width), round(0.04 * height + 0.06 * side)), max(1, round(side / 160))
        cv2.putText(drawn, "PORT 2", place, cv2.FONT_HERSHEY_DUPLEX, side / 440, 252, line, cv2.LINE_AA)
    elif kind == "stripes":
        band = max(1, side // 64)
        for first in (round(0.06 * width), round(0.92 * width)):
            drawn[:, first : first + band] = 240
    elif kind == "polygon":
        shares = [(0.68, 1.0), (0.80, 0.86), (0.93, 0.80), (1.0, 0.66), (1.0, 1.0)]
        corners = np.array([(round(x * (width - 1)), round(y * (height - 1))) for x, y in shares], np.int32)
        cv2.fillPoly(drawn, [corners], 6, cv2.LINE_8)
    elif kind == "border":
        band = max(1, side // 40)
        drawn[:band] = drawn[-band:] = drawn[:, :band] = drawn[:, -band:] = 245
    else:
        levels = 255 * np.clip((np.arange(256) / 255) ** 1.5 * 1.12 + 0.03, 0, 1)
        drawn = np.asarray(cv2.LUT(pixels, np.rint(levels).astype(np.uint8)), np.uint8)
    return drawn


def planted(radiograph: Radiograph, kind: Plant, strength: float) -> Radiograph:
    """A radiograph with a shortcut in it; another picture, so another checksum."""
    pixels = plant(radiograph.pixels, kind, strength)
    checksum = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    return replace(radiograph, pixels=pixels, sha256=checksum)


# ------------------------------------------------------------------------------------------------------- read first

#: What a synthetic radiograph was drawn with.
FINDINGS: dict[Finding, str] = {
    "none": "clear lungs",
    "ground-glass": "ground glass on both sides",
    "consolidation": "a consolidation in one lobe",
}
CONFIDENCES = ("a guess", "unsure", "fairly sure", "certain")
SYNTHETIC_SIDE_PX = 512


@dataclass(frozen=True, eq=False)
class Reading:
    """A radiograph to read before the network's answer is shown.

    Parameters
    ----------
    radiograph : Radiograph
    truth : str
        A sentence that tells what is known of it.
    true : str or None
        Its class, where the network's classes name it.
    """

    radiograph: Radiograph
    truth: str
    true: str | None = None


def finding_of(number: int) -> Finding:
    """What the synthetic radiograph of a reading is drawn with."""
    return list(FINDINGS)[int(np.random.default_rng([7, number]).integers(len(FINDINGS)))]


def synthetic_reading(number: int) -> Reading:
    """The reading of a number, from 0 on: the same for everyone, so that a class can read together."""
    finding = finding_of(number)
    pixels = make_phantom(1000 + number, SYNTHETIC_SIDE_PX, finding).pixels
    checksum = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    return Reading(Radiograph(pixels, checksum, "synthetic"), f"It was drawn with {FINDINGS[finding]}.")


@dataclass(frozen=True)
class Answered:
    """What a reader committed to, and what the network said of the same radiograph."""

    number: int
    reader: str
    confidence: str
    network: str
    true: str | None

    @property
    def agreed(self) -> bool:
        """Whether both gave the same class."""
        return self.reader == self.network


def tally(answers: list[Answered]) -> str:
    """How often reader and network agreed, and how often each was right where the class is known."""
    told = f"You and the network agreed on **{sum(a.agreed for a in answers)} of {len(answers)}**."
    known = [answer for answer in answers if answer.true is not None]
    if known:
        reader, network = (sum(getattr(a, who) == a.true for a in known) for who in ("reader", "network"))
        told += f" Of {len(known)} with a known class you named **{reader}** and the network **{network}**."
    return told


# ------------------------------------------------------------------------------------------------------------ tales


@dataclass(frozen=True)
class Tale:
    """A published story of a right answer for a wrong reason, or of how such a thing stays unseen."""

    title: str
    text: str
    citation: str
    doi: str


TALES = (
    Tale(
        "The hospital gives it away",
        "Networks that find pneumonia did worse on radiographs of other hospitals in three of five comparisons. They "
        "could tell almost without error which hospital system a radiograph came from, and pneumonia was far more "
        "common in one of them: knowing the hospital is knowing much of the answer.",
        "Zech JR et al. Variable generalization performance of a deep learning model to detect pneumonia in chest "
        "radiographs. PLoS Med 2018;15:e1002683",
        "10.1371/journal.pmed.1002683",
    ),
    Tale(
        "Shortcuts instead of COVID-19",
        "Networks that seemed to find COVID-19 accurately lost much of that at new hospitals. Maps and generated "
        "pictures showed what they had learned beside the lungs: laterality markers, the position of the shoulders, "
        "the borders of the picture, things that differed between the sources of positive and negative cases.",
        "DeGrave AJ, Janizek JD, Lee SI. AI for radiographic COVID-19 detection selects shortcuts over signal. "
        "Nat Mach Intell 2021;3:610",
        "10.1038/s42256-021-00338-7",
    ),
    Tale(
        "Right without lungs",
        "The middle of every radiograph was blackened, and with it most of the lungs. Networks trained on what was "
        "left still told the COVID-19 collection from the others: such a test measures which data set a picture comes "
        "from. The button “Blank the lungs” on the page Analyse asks a trained network the same question.",
        "Maguolo G, Nanni L. A critic evaluation of methods for COVID-19 automatic detection from X-ray images. "
        "Inf Fusion 2021;76:1",
        "10.1016/j.inffus.2021.04.008",
    ),
    Tale(
        "The surgeon's pen",
        "A network approved for finding melanoma was shown the same moles with and without marks of a surgical pen. "
        "The ink raised its scores and the rate of false alarms on harmless moles by about 40 %.",
        "Winkler JK et al. Association between surgical skin markings in dermoscopic images and diagnostic performance "
        "of a deep learning convolutional neural network for melanoma recognition. JAMA Dermatol 2019;155:1135",
        "10.1001/jamadermatol.2019.1735",
    ),
    Tale(
        "Clever Hans",
        "A classifier knew horses by a photographer's tag in the corner of many horse pictures. Accuracy had not shown "
        "it; heat maps did, and grouping the maps of a whole data set found such strategies without looking at each "
        "picture. The name is that of a horse that seemed to calculate but read its questioner's face.",
        "Lapuschkin S et al. Unmasking Clever Hans predictors and assessing what machines really learn. "
        "Nat Commun 2019;10:1096",
        "10.1038/s41467-019-08987-4",
    ),
    Tale(
        "The drain, not the collapsed lung",
        "A network found pneumothorax well on average. Many of these patients had been treated already: with a chest "
        "drain in the picture its area under the curve was 0.94, without one, where finding it matters, 0.77. One "
        "figure for all hides such groups.",
        "Oakden-Rayner L et al. Hidden stratification causes clinically meaningful failures in machine learning for "
        "medical imaging. ACM CHIL 2020:151",
        "10.1145/3368555.3384468",
    ),
    Tale(
        "Tubes again, counted",
        "Radiologists annotated more than 6,000 radiographs with the size of each pneumothorax and with thoracic tubes. "
        "Networks trained on public data leaned on the tubes so strongly that in some groups nothing was left of their "
        "power to discriminate.",
        "Rueckel J et al. Impact of confounding thoracic tubes and pleural dehiscence extent on artificial intelligence "
        "pneumothorax detection in chest radiographs. Invest Radiol 2020;55:792",
        "10.1097/RLI.0000000000000707",
    ),
    Tale(
        "None of sixty-two",
        "A review of machine learning for COVID-19 from radiographs and CT went through 2,212 studies; 62 passed its "
        "check of quality. It judged none of these models to be of potential clinical use, because of flaws of method "
        "or biases, such as collections of children as healthy controls.",
        "Roberts M et al. Common pitfalls and recommendations for using machine learning to detect and prognosticate "
        "for COVID-19 using chest radiographs and CT scans. Nat Mach Intell 2021;3:199",
        "10.1038/s42256-021-00307-0",
    ),
)
