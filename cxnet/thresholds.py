"""Where the verdict draws its lines, and which tests an answer is put to: ``thresholds.toml``, which the exam writes."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cxnet.architectures import Region
from cxnet.errors import WeightsError

THRESHOLDS = Path(__file__).with_name("thresholds.toml")
#: Causal test → what it says when it turns.
TESTS = {
    "background": "everything but the lungs carries the answer better than the lungs do",
    "marker": "the answer hangs on burned-in text or a marker",
    "border": "the answer hangs on the border of the picture",
    "appearance": "the answer hangs on contrast, brightness or sharpness outside the lungs",
    "opacity": "the answer stays when opacities are drawn into the lungs: the network looks elsewhere or does not know them",
}
#: Whether an answer names a finding → the causal tests that it is put to.
ASKED = {True: ("background", "marker", "border", "appearance"), False: ("marker", "border", "opacity")}
#: What of a radiograph a network is shown → the causal tests that its answers are not put to.
NOT_ASKED: Mapping[Region, tuple[str, ...]] = {"lung-mask": ("background", "appearance")}
#: Tests that only keep an answer from *none found*.
ACCUSES_NOBODY = ("opacity",)
#: A network whose answers stand no further above guessing says nothing: lines are not drawn closer.
LEAST_USUAL = 0.5


def asked(finding: bool, region: Region) -> tuple[str, ...]:
    """The causal tests that an answer is put to, by whether it names a finding and what of a radiograph its network is shown."""
    return tuple(name for name in ASKED[finding] if name not in NOT_ASKED.get(region, ()))


@dataclass(frozen=True)
class Thresholds:
    """Where the lines are drawn.

    Parameters
    ----------
    version : int
    source : str
        Which exam gave them.
    least_z, least_lift : float
        A map below either of them turns against the network.
    finding, no_finding : mapping of str to float
        Evidence from which a causal test turns, as a share of the network's usual evidence: the tests of :data:`ASKED`, for
        answers that name a finding and for those that name none.
    least_local_r2 : float
        LIME's map is read from this held-out R² on.
    least_moved : float
        Share of the usual evidence by which some edit must move an answer, or else it is never cleared.
    most_without_lungs : float
        Evidence that hiding the lungs may leave of an answer that names a finding, as a share of the usual: with as
        much or more it is never cleared.
    """

    version: int
    source: str
    least_z: float
    least_lift: float
    finding: Mapping[str, float]
    no_finding: Mapping[str, float]
    least_local_r2: float
    least_moved: float
    most_without_lungs: float

    def shares(self, finding: bool) -> Mapping[str, float]:
        """The lines of answers that name a `finding`, or none, by test."""
        return MappingProxyType(self.finding if finding else self.no_finding)

    def lines(self, usual: float, finding: bool) -> dict[str, float]:
        """Logits from which each test of :data:`ASKED` turns, for a network with this usual evidence."""
        return {name: share * max(usual, LEAST_USUAL) for name, share in self.shares(finding).items()}


@cache
def thresholds(path: Path = THRESHOLDS) -> Thresholds:
    """The thresholds of the last exam.

    Raises
    ------
    WeightsError
        If the file is missing or cannot be understood.
    """
    try:
        found = tomllib.loads(path.read_text("utf-8"))
        lines = {
            kind: {name: float(share) for name, share in found[kind].items()} for kind in ("finding", "no_finding")
        }
        for kind, names in (("finding", ASKED[True]), ("no_finding", ASKED[False])):
            if set(lines[kind]) != set(names):
                raise ValueError(f"[{kind}] must name {', '.join(names)}")
        rest: dict[str, Any] = {name: float(value) for part in ("map", "gates") for name, value in found[part].items()}
        return Thresholds(version=int(found["version"]), source=str(found["source"]), **(rest | lines))
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path.name} cannot be understood ({error}); restore it from the repository.") from error
