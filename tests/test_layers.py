"""The structure that ARCHITECTURE.md promises."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIGHT = [
    "errors",
    "writing",
    "radiograph",
    "phantom",
    "markers",
    "enhance",
    "overlay",
    "dataset",
    "statistics",
    "published",
    "runs",
    "wrong_reasons",
]
ORDER = [
    *LIGHT,
    *[
        "architectures",
        "weights",
        "chexnet",
        "engine",
        "lungs",
        "classifier",
        "explain",
        "audit",
        "analysis",
        "thresholds",
        "verdict",
        "exam",
        "batch",
        "report",
        "training",
        "__main__",
    ],
]
FILES = sorted((ROOT / "cxnet").rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Full names of what a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_modules_above_it(path: Path) -> None:
    own = path.relative_to(ROOT / "cxnet").parts[0].removesuffix(".py")
    if own == "__init__":
        assert not any(name.startswith("cxnet") for name in imports(path))
        return
    assert own in ORDER, f"{own} has no place in the order of modules; give it one"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "cxnet" and len(parts) > 1 and parts[1] in ORDER and parts[1] != own:
            assert ORDER.index(parts[1]) < ORDER.index(own), f"{own} imports {parts[1]}, which stands below it"
        assert parts[0] != "streamlit", "only app.py and pages/ know Streamlit"


def test_light_modules_load_no_framework() -> None:
    code = f"import sys, {', '.join('cxnet.' + name for name in LIGHT)}\n"
    code += "print([m for m in ('tensorflow', 'keras', 'torch', 'openvino', 'lime') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


def test_no_module_is_a_giant() -> None:
    for path in [*FILES, *(ROOT / "pages").glob("*.py")]:
        assert len(path.read_text("utf-8").splitlines()) <= 600, path


def test_every_public_function_is_documented() -> None:
    for path in FILES:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"


def test_files_name_no_registry_and_no_private_path() -> None:
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for name in tracked.stdout.split():
        path = ROOT / name
        if (
            path.suffix in (".npz", ".bin", ".png", ".npy", ".xml", ".parquet")
            or not path.is_file()
            or name == ".ci/run"
        ):
            continue
        assert not re.search(r"/home/[a-z]+/|/wor[k]/|py[p]i\.org|\.\./share[d]", path.read_text("utf-8")), name
