"""Archives, folders and hostile addresses in a real browser."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cxnet.phantom import make_phantom
from tests.browser.conftest import idle

SECRET = "ZZTESTPHI"


def png(seed: int) -> bytes:
    return cv2.imencode(".png", make_phantom(seed, 320).pixels)[1].tobytes()


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    return [png(seed) for seed in range(3)]


def archive(pictures: list[bytes]) -> bytes:
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr(f"../../{SECRET}/one", pictures[0])
        opened.writestr("notes.txt", f"{SECRET} is no picture")
        opened.writestr("zeros", bytes(2**22))
        opened.writestr("__MACOSX/._one", b"x")
        opened.writestr("DICOMDIR", b"x")
        opened.writestr("two.png", pictures[1])
    return found.getvalue()


def choices(page: Any) -> list[str]:
    """Uploads in the picker."""
    page.get_by_role("combobox", name="Radiograph").click()
    page.get_by_role("option").first.wait_for()
    found = [text for text in page.get_by_role("option").all_inner_texts() if text.startswith("Upload")]
    page.keyboard.press("Escape")
    return found


def test_a_zip_gives_its_radiographs_and_a_sentence_for_the_rest(page: Any, pictures: list[bytes]) -> None:
    from playwright.sync_api import expect

    page.goto("/")
    idle(page)
    page.get_by_test_id("stFileUploader").locator("input[type=file]").set_input_files(
        [{"name": "study.zip", "mimeType": "application/zip", "buffer": archive(pictures)}]
    )
    page.get_by_text("Model output for").first.wait_for()
    idle(page)
    alerts = page.get_by_test_id("stAlert").all_inner_texts()
    refused = [text for text in alerts if "of the archive" in text]
    assert len(refused) == 2
    assert any("File 2 of the archive: This is no PNG" in text for text in refused)
    assert any("File 3 of the archive: It unpacks to more than 200 times" in text for text in refused)
    assert SECRET not in page.content()
    assert len(choices(page)) == 2

    # what was read is not read again, and what comes later is added
    page.get_by_test_id("stFileUploader").locator("input[type=file]").set_input_files(
        [{"name": "three.png", "mimeType": "image/png", "buffer": pictures[2]}]
    )
    expect(page.get_by_role("combobox", name="Radiograph")).to_have_value(re.compile("^Upload 3:"))
    idle(page)
    assert len(choices(page)) == 3
    alerts = page.get_by_test_id("stAlert").all_inner_texts()
    assert len([text for text in alerts if "of archive 1" in text or "of the archive" in text]) == 2


def test_a_folder_is_read_without_extensions(page: Any, pictures: list[bytes], tmp_path: Path) -> None:
    study = tmp_path / "study" / "series"
    study.mkdir(parents=True)
    (study.parent / "DICOMDIR").write_bytes(b"x")
    (study.parent / ".DS_Store").write_bytes(b"x")
    (study / "IM1").write_bytes(pictures[0])
    (study / "IM2").write_bytes(pictures[1])
    (study / "IM3").write_bytes(np.zeros(40, np.uint8).tobytes())
    page.goto("/")
    idle(page)
    page.get_by_text("A whole folder").click()
    page.locator("input[webkitdirectory]").set_input_files(tmp_path / "study")
    page.get_by_text("Model output for").first.wait_for()
    idle(page)
    assert len(choices(page)) == 2
    (refused,) = [text for text in page.get_by_test_id("stAlert").all_inner_texts() if "File " in text]
    assert "This is no PNG" in refused


@pytest.mark.parametrize(
    "address",
    [
        "/?sample=%00%3Cscript%3Ewindow.hit%3D1%3C%2Fscript%3E&model=..%2F..%2Fetc%2Fpasswd",
        f"/?run=..%2F..%2F&case={'9' * 5000}",
        "/runs?run=%3Cimg%20src%3Dx%20onerror%3D%22window.hit%3D1%22%3E&fold=%F0%9F%AB%81&threshold=NaN",
        "/audit?run=%2Fetc%2Fpasswd&tier=%00&page=-1",
    ],
)
def test_a_hostile_address_shows_the_page(page: Any, address: str) -> None:
    page.goto(address)
    idle(page)
    assert page.evaluate("window.hit") is None
    assert page.get_by_test_id("stException").count() == 0
    assert page.get_by_test_id("stAlertContentError").count() <= 1
