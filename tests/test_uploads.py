"""How much a tab takes: what was accepted stays, and what was not is told in one sentence."""

from __future__ import annotations

import io
import time
import zipfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from cxnet.phantom import make_phantom
from cxnet.radiograph import read_radiograph
from pages import _memory, _session

ROOT = Path(__file__).parents[1]
SIDE = 320
HOLDS = "a tab holds 24 radiographs and 160 million pixels"


def picture(number: int) -> bytes:
    """Another radiograph for every number."""
    found = BASE.copy()
    found[0, 0] = number
    return cv2.imencode(".png", found)[1].tobytes()


BASE = make_phantom(3, SIDE).pixels.copy()
PICTURES = [picture(number) for number in range(30)]


def case(number: int) -> str:
    return f"upload:{read_radiograph(PICTURES[number]).sha256}"


def archive(numbers: range) -> bytes:
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as opened:
        for number in numbers:
            opened.writestr(f"{number}.png", PICTURES[number])
    return found.getvalue()


def _uploader() -> None:
    """The page's uploader without the page."""
    import streamlit as st

    from pages import _session

    st.file_uploader("Drop", accept_multiple_files=True, key=_session.uploader_key(), on_change=_session.take_uploads)
    for sentence in [*st.session_state.get("upload_errors", []), *_session.refusals()]:
        st.error(sentence)


@pytest.fixture
def at() -> AppTest:
    return AppTest.from_function(_uploader, default_timeout=60).run()


def drop(at: AppTest, *files: bytes) -> list[str]:
    """Drop files, and take earlier ones off the uploader's list; the sentences that are shown then."""
    widget = at.file_uploader[0]
    for number, file in enumerate(files):
        widget.upload(f"{number}.bin", file, "application/octet-stream")
    at.run()
    assert not at.exception
    return [error.value for error in at.error]


def kept(at: AppTest) -> list[str]:
    return list(at.session_state["uploads"]) if "uploads" in at.session_state else []


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How long each file was that was read, in the order of reading."""
    found: list[int] = []
    whole = _session.read_radiographs

    def counted(data: bytes) -> object:
        found.append(len(data))
        return whole(data)

    monkeypatch.setattr(_session, "read_radiographs", counted)
    return found


def test_24_radiographs_fit(at: AppTest) -> None:
    assert drop(at, *PICTURES[:24]) == []
    assert kept(at) == [case(number) for number in range(24)]


def test_of_more_than_24_the_first_are_kept_and_the_rest_is_one_sentence(at: AppTest, reads: list[int]) -> None:
    told = f"From file 25 on: No more was read, as {HOLDS}; drop the rest later, and the oldest give way."
    assert drop(at, *PICTURES) == [told]
    assert kept(at) == [case(number) for number in range(24)]
    assert len(reads) == 25  # the rest was not even decoded


def test_copies_and_refused_files_take_no_place(at: AppTest) -> None:
    (told,) = drop(at, PICTURES[0], b"no picture", *[PICTURES[0]] * 3, *PICTURES[1:24])
    assert told.startswith("File 2: This is no PNG")
    assert kept(at) == [case(number) for number in range(24)]


def test_an_archive_of_more_than_24_says_which_were_left(at: AppTest) -> None:
    (told,) = drop(at, archive(range(30)))
    assert told.startswith("From file 25 of the archive on: No more was read, as a tab holds 24")
    assert kept(at) == [case(number) for number in range(24)]


def test_what_was_left_can_be_dropped_later_and_the_oldest_give_way(at: AppTest) -> None:
    drop(at, *PICTURES)
    (told,) = drop(at, PICTURES[28], PICTURES[29], PICTURES[5])
    assert told == f"Of the radiographs that were there, the oldest gave way (2), as {HOLDS}."
    # the sixth was dropped again, so it is the newest, and took no place
    assert kept(at) == [case(number) for number in (2, 3, 4, *range(6, 24), 28, 29, 5)]
    assert at.session_state["case"] == case(5)


def test_pixels_are_counted_like_radiographs(at: AppTest, reads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_session, "UPLOADED_PIXELS_KEPT", 5 * SIDE * SIDE)
    assert drop(at, *PICTURES[:5]) == []  # to the last pixel
    assert kept(at) == [case(number) for number in range(5)]
    first, second = drop(at, *PICTURES[5:12])
    assert first.startswith("From file 6 on: No more was read") and second.startswith("Of the radiographs that were")
    assert "(5)" in second
    assert kept(at) == [case(number) for number in range(5, 10)]
    assert len(reads) == 11


def test_the_limits_are_what_is_promised() -> None:
    assert _session.UPLOADS_KEPT == 24 and _session.UPLOADED_PIXELS_KEPT == 160_000_000 and _session.READING_S == 60


class Slow:
    """A reader that takes a number of seconds of the clock for a file, and a clock that knows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now, self.seconds, self.files = 0.0, seconds, 0
        whole = _session.read_radiographs

        def read(data: bytes) -> object:
            for found in whole(data):
                self.now += self.seconds
                self.files += 1
                yield found

        monkeypatch.setattr(_session, "read_radiographs", read)
        monkeypatch.setattr(_session, "time", type("Clock", (), {"monotonic": lambda: self.now, "sleep": time.sleep}))


def test_reading_stops_after_a_minute(at: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch, 25)
    told = "From file 3 on: Reading took too long and was stopped; drop the rest in smaller parts."
    assert drop(at, *PICTURES[:20]) == [told]
    assert kept(at) == [case(0), case(1)] and slow.files == 3
    assert drop(at, PICTURES[2]) == []  # another minute
    assert kept(at) == [case(0), case(1), case(2)]


def test_an_archive_that_takes_long_keeps_what_was_read(at: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch, 25)
    (told,) = drop(at, archive(range(20)))
    assert told.startswith("From file 3 of the archive on: Reading took too long")
    assert kept(at) == [case(0), case(1)] and slow.files == 3


def test_files_that_are_none_use_up_the_minute_too(at: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch, 25)
    refused, stopped = drop(at, *[b"no picture"] * 20)
    assert refused.startswith("File 1, file 2: This is no PNG") and stopped.startswith("From file 3 on: Reading took")
    assert kept(at) == [] and slow.files == 3


def test_one_slow_file_is_taken_and_nothing_is_said_that_is_not_so(
    at: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    Slow(monkeypatch, 70)
    assert drop(at, PICTURES[0]) == []
    assert kept(at) == [case(0)]


def test_a_full_server_reads_no_more_and_says_so(at: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    used = iter([100, 100, 900, 900, 100, 100])
    monkeypatch.setattr(_memory, "limit_bytes", lambda: 1000)
    monkeypatch.setattr(_memory, "resident_bytes", lambda: next(used))
    (told,) = drop(at, *PICTURES[:5])
    assert told.startswith("From file 3 on: No more was read, as the server's memory is full")
    assert kept(at) == [case(0), case(1)]


def test_what_was_turned_away_is_told_without_a_drop_and_until_a_later_one(
    at: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[Counter[int]] = []
    monkeypatch.setattr(_session._server, "refused", lambda session: refused.pop() if refused else Counter())
    full = "files were not taken, as the server's memory is full"
    refused.append(Counter({503: 3}))
    assert [told.startswith(f"3 {full}") for told in drop(at)] == [True]  # the browser had nothing to send
    assert [told.startswith(f"3 {full}") for told in drop(at, PICTURES[2])] == [True]  # the rest of that drop
    assert drop(at, PICTURES[3]) == []  # another drop
    refused.append(Counter({413: 1, 503: 2}))
    many, more = drop(at, PICTURES[4])
    assert many.startswith("1 file was not taken, as a drop may have") and more.startswith(f"2 {full}")
    assert drop(at) == [many, more]
    assert drop(at, PICTURES[5]) == []
    refused.append(Counter({503: 3}))
    assert len(drop(at)) == 1
    monkeypatch.setattr(_session, "SAME_DROP_S", 0.0)
    assert drop(at, PICTURES[6]) == []  # much later
    assert kept(at) == [case(number) for number in range(2, 7)]


def test_the_page_shows_the_sentence_and_the_radiographs() -> None:
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    (told,) = drop(at, *PICTURES[:26])
    assert told.startswith("From file 25 on: No more was read")
    assert kept(at) == [case(number) for number in range(24)]
    picker = at.selectbox(key="case")
    assert len([option for option in picker.options if option.startswith("Upload")]) == 24
    assert any(sentence.value.startswith("Model output for") for sentence in at.markdown)


def test_pictures_differ() -> None:
    assert len({case(number) for number in range(30)}) == 30
    assert all(np.asarray(cv2.imdecode(np.frombuffer(p, np.uint8), 0)).shape == (SIDE, SIDE) for p in PICTURES)
