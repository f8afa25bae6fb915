"""The operator's guide agrees with itself."""

from __future__ import annotations

import re
from pathlib import Path

GUIDE = (Path(__file__).parents[1] / "docs" / "operations.md").read_text("utf-8")


def test_container_and_proxies_have_the_same_base_path() -> None:
    """The proxies pass the path through, so the server behind them must serve under it."""
    container = GUIDE.partition("## Container")[2]
    (base,) = re.findall(r"-e STREAMLIT_SERVER_BASE_URL_PATH=(\S+)", container)
    assert set(re.findall(r"^ *location /(\w+)/ \{", GUIDE, re.M)) == {base}  # nginx
    assert set(re.findall(r"reverse_proxy /(\w+)/\* ", GUIDE)) == {base}  # Caddy
