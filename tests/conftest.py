"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CXNET_GATE", "off")  # tests of the gate switch it on; a served app inherits this
settings.register_profile("cxnet", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("cxnet")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real radiographs named by CXNET_DATA; tests that need it skip without it."""
    folder = os.environ.get("CXNET_DATA")
    if not folder:
        pytest.skip("CXNET_DATA is not set: it names a folder of real radiographs")
    if not Path(folder).is_dir():
        pytest.skip(f"CXNET_DATA names no folder: {folder}")
    return Path(folder)
