"""What the server's memory keeps of a patient: nothing that users share, and nothing after "Forget everything"."""

from __future__ import annotations

import asyncio
import gc
import io
import tempfile
import time
import types
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid
from starlette.datastructures import UploadFile
from starlette.requests import Request
from streamlit.runtime.caching import cache_data_api, cache_resource_api
from streamlit.testing.v1 import AppTest

from cxnet.analysis import Analysis
from cxnet.phantom import make_phantom
from cxnet.radiograph import Radiograph
from pages import _jobs, _server

APP = str(Path(__file__).parents[1] / "app.py")
PATIENT = "ZZTESTPHI"
#: Value representations of DICOM that hold free text, and a keyword of each that a chest radiograph may carry.
TEXTS = (
    "PatientName", "PatientID", "OtherPatientNames", "PatientComments", "PatientAddress", "EthnicGroup", "Occupation",
    "AccessionNumber", "StudyID", "StudyDescription", "SeriesDescription", "ImageComments", "ProtocolName",
    "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "Manufacturer",
    "ManufacturerModelName", "DeviceSerialNumber", "ReferringPhysicianName", "OperatorsName", "PerformingPhysicianName",
    "RequestingPhysician", "AdditionalPatientHistory", "AdmittingDiagnosesDescription", "RequestedProcedureDescription",
)  # fmt: skip


def patient_dicom(patient: str = PATIENT, size: int = 320, seed: int = 3) -> bytes:
    """A phantom as a DICOM file that names a patient in every text that a radiograph may carry, and in a private tag."""
    pixels = make_phantom(seed, size).pixels
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    for keyword in TEXTS:
        setattr(dataset, keyword, patient)
    dataset.private_block(0x0011, patient, create=True).add_new(0x01, "LO", patient)
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "CR", "CHEST", "PA"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = (pixels.astype(np.uint16) * 16).tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    assert buffer.getvalue().count(patient.encode()) == len(TEXTS) + 2
    return buffer.getvalue()


def within(*roots: Any) -> Iterator[Any]:
    """Everything that can be reached from objects, but for code."""
    seen: set[int] = set()
    todo = list(roots)
    while todo:
        found = todo.pop()
        code = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType, types.FrameType)
        if id(found) in seen or isinstance(found, code):
            continue
        seen.add(id(found))
        yield found
        todo += gc.get_referents(found)


def shared() -> list[Any]:
    """What the caches of all users hold."""
    found = [
        value
        for caches in (cache_data_api._data_caches, cache_resource_api._resource_caches)
        for scope in caches._function_caches.values()
        for cache in (scope.values() if isinstance(scope, dict) else [scope])
        for value in [cache]
    ]
    assert found
    return found


def told(root: Any, patient: str, pixels: bytes) -> list[str]:
    """Where a patient's name or a run of pixels stands in what can be reached from an object."""
    bad = []
    for found in within(root):
        if isinstance(found, str) and patient in found:
            bad.append(f"text: {found[:60]}")
        elif isinstance(found, (bytes, bytearray)) and (patient.encode() in found or pixels in found):
            bad.append(f"{len(found)} bytes")
        elif isinstance(found, np.ndarray) and found.dtype != object and pixels in found.tobytes():
            bad.append(f"an array of {found.shape}")
        elif isinstance(found, (Radiograph, Analysis)):
            bad.append(type(found).__name__)
    return bad


def run_of(radiograph: Radiograph) -> bytes:
    """Pixels that stand side by side and are not the same anywhere else."""
    height, width = radiograph.pixels.shape
    found = radiograph.pixels[height // 2, width // 4 : width // 4 + 64].tobytes()
    assert len(set(found)) > 8
    return found


@pytest.fixture
def at() -> AppTest:
    at = AppTest.from_file(APP, default_timeout=120).run()
    at.file_uploader[0].upload(f"{PATIENT}.dcm", patient_dicom(), "application/dicom").run()
    assert not at.exception
    assert not at.error
    return at


def run(at: AppTest, press: str | None = None) -> None:
    """Another run, perhaps after a button. The test runner knows no titles of uploads: it takes the first as it is."""
    picker = at.selectbox(key="case")
    picker.set_value(picker.options[0])
    if press is not None:
        next(button for button in at.button if press in (button.key, button.label)).click()
    at.run()
    assert not at.exception


def test_the_search_finds_what_is_there(at: AppTest) -> None:
    (radiograph,) = at.session_state["uploads"].values()
    pixels = run_of(radiograph)
    analyses = told(at.session_state["analyses"], PATIENT, pixels)
    assert any(bad.startswith("an array") for bad in analyses)
    assert {"Radiograph", "Analysis"} <= set(analyses)
    assert told([f"Name: {PATIENT}^A"], PATIENT, pixels)


def test_shared_caches_hold_nothing_of_a_patient_and_forgetting_frees(at: AppTest) -> None:
    run(at, "whatif-lungs")
    run(at, "run-lime")
    (job,) = at.session_state["jobs"].values()
    end = time.monotonic() + 120
    while job.updates < 2 and time.monotonic() < end:
        time.sleep(0.05)
    assert "lime" in job.partial.explanations
    run(at)
    run(at, "cancel-lime")
    while job.active and time.monotonic() < end:
        time.sleep(0.05)
    assert job.state == "cancelled"
    run(at)
    (radiograph,) = at.session_state["uploads"].values()
    pixels = run_of(radiograph)
    assert told(shared(), PATIENT, pixels) == []
    assert told(_jobs.runner(), PATIENT, pixels) == []

    gone = [weakref.ref(radiograph), weakref.ref(radiograph.pixels), weakref.ref(job)]
    gone += [weakref.ref(analysis) for analysis in at.session_state["analyses"].values()]
    del radiograph, job
    run(at, "Forget everything")
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(gone)


def test_an_upload_never_lies_in_a_temporary_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Streamlit's server takes one; it would use the disk from 1 MB on."""

    def rollover(self: Any) -> None:
        raise AssertionError("The upload was written to disk.")

    _server.start()  # as app.py does
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rollover)
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        + bytes(5 << 20)
        + b"\r\n--x--\r\n"
    )
    parts = iter([body[start : start + 65536] for start in range(0, len(body), 65536)])

    async def receive() -> dict[str, Any]:
        part = next(parts, None)
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    request = Request({"type": "http", "method": "PUT", "headers": headers}, receive)

    async def take() -> bytes:
        async with request.form() as form:
            (file,) = form.values()
            assert isinstance(file, UploadFile)
            return await file.read()

    with ThreadPoolExecutor(1) as pool:  # this thread may have a loop already, a browser's
        assert pool.submit(lambda: asyncio.run(take())).result() == bytes(5 << 20)
