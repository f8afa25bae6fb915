"""Reports: every fact is there and escaped, no path and no request, and the same bytes from the command they name."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shlex
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from cxnet import report
from cxnet.__main__ import main
from cxnet.analysis import NOTICE, Analysis, Models, Settings, analyse, dumps, load_models
from cxnet.audit import AuditScore
from cxnet.enhance import Enhancement
from cxnet.errors import RadiographError, SettingsError
from cxnet.explain.lime import LimeSettings
from cxnet.phantom import make_phantom
from cxnet.radiograph import Radiograph, open_radiograph
from cxnet.verdict import CaseAudit, audit

HOSTILE = "</td><script src=//evil.example/x.js></script><img src=x onerror=alert(1)>&\"'\u202e\x00"
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags that open and close, texts, and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        values = dict(attrs)
        self.links += [str(values[k]) for k in ("href", "src", "action", "data") if k in values]
        assert not [name for name in values if name.startswith("on")]
        if tag == "img":
            self.pictures.append(values)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ZZTESTPHI-folder") / "ZZTESTPHI-name.png"
    path.write_bytes(cv2.imencode(".png", make_phantom(5, 400, "ground-glass").pixels)[1].tobytes())
    return path


SETTINGS = Settings(
    methods=("grad-cam", "lime"),
    target="Normal",
    enhancement=Enhancement(beasf_gamma=1.75),
    lime=LimeSettings(samples=32, design="random"),
    superpixels=20,
    seed=3,
)


@pytest.fixture(scope="module")
def analysis(file: Path, models: Models) -> Analysis:
    return analyse(open_radiograph(file), models, SETTINGS)


@pytest.fixture(scope="module")
def audited(analysis: Analysis, models: Models) -> CaseAudit:
    return audit(analysis, models)


@pytest.fixture(scope="module")
def page(analysis: Analysis, audited: CaseAudit) -> Page:
    return Page(report.html(analysis, audited))


def with_(analysis: Analysis, **changes: object) -> Analysis:
    """The analysis with another LIME; None takes it away."""
    explanations = dict(analysis.explanations)
    scores = dict(analysis.scores)
    lime = explanations.pop("lime")
    if changes.get("lime", True) is None:
        scores.pop("lime")
        return replace(
            analysis, explanations=MappingProxyType(explanations), scores=MappingProxyType(scores), agreement=()
        )
    explanations["lime"] = replace(lime, **changes)  # type: ignore[arg-type]
    return replace(analysis, explanations=MappingProxyType(explanations))


# ---------------------------------------------------------------------------------------------------------- the facts


def test_the_page_is_whole_and_asks_for_nothing(page: Page) -> None:
    assert not page.open, "every tag is closed"
    assert page.tags.count("h1") == 1 and "script" not in page.tags and "link" not in page.tags
    for link in page.links:
        assert link.startswith(("data:image/png;base64,", "https://doi.org/10.")), link[:60]
    assert any(link.startswith("https://doi.org/") for link in page.links)
    assert all(picture["alt"] for picture in page.pictures)
    assert NOTICE in page.text


def test_the_page_tells_every_figure_of_the_analysis(page: Page, analysis: Analysis, audited: CaseAudit) -> None:
    content = json.loads(dumps(analysis))
    told = [content["radiograph"]["sha256"], content["model"]["sha256"], content["lungs"]["model_sha256"]]
    told += [report.number(p) for p in content["prediction"]["probabilities"].values()]
    told += [f"{p:+.3f}" for p in content["prediction"]["logits"].values()]
    told += list(analysis.card.held_out.values())[2:5]
    told += [f"held out {analysis.explanations['lime'].r2_held_out:.2f}", "32 samples", "stretched to its maximum"]
    told += [f"Verdict: {audited.verdict.name}", *audited.verdict.facts]
    scores = [s for scores in analysis.scores.values() for s in scores]
    for score in [*scores, *analysis.agreement, *audited.scores]:
        told.append(score.name)
        told.append(f"undefined: {score.reason}" if score.value is None else report.number(score.value))
        told += [f"{name} {report.number(value)}" for name, value in score.null.items()]
    told += [f"{name} {version}" for name, version in report.versions().items()]
    missing = [text for text in told if str(text) not in page.text]
    assert not missing


def test_an_undefined_figure_is_a_reason_and_never_a_number(analysis: Analysis) -> None:
    undefined = (AuditScore("lift", None, "ratio", reason="no evidence: the map is zero everywhere"),)
    scores = MappingProxyType({**analysis.scores, "grad-cam": undefined})
    text = Page(report.html(replace(analysis, scores=scores))).text
    assert "lift undefined: no evidence: the map is zero everywhere ratio higher none cxnet" in text
    assert not re.search(r"\bnan\b|\bNone\b", text)


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.0, "0.000"), (0.12345, "0.123"), (-1.5, "-1.500"), (0.0002, "2.00e-04"), (-4e-6, "-4.00e-06")],
)
def test_numbers(value: float, told: str) -> None:
    assert report.number(value) == told


def test_no_path_and_no_name_anywhere(analysis: Analysis, audited: CaseAudit, file: Path) -> None:
    page = Page(report.html(analysis, audited))
    with zipfile.ZipFile(io.BytesIO(report.bundle(analysis, audited))) as archive:
        texts = [page.text, *(archive.read(n).decode() for n in archive.namelist() if n.endswith(".json"))]
    for text in texts:
        assert "ZZTESTPHI" not in text and str(Path.home()) not in text and str(Path.cwd()) not in text
        assert not re.search(r"(^|\s)/(tmp|home|root|usr|Users)/|[A-Z]:\\", text)
    assert b"ZZTESTPHI" not in report.pdf(analysis, audited)


def test_hostile_tags_are_text(analysis: Analysis) -> None:
    radiograph = replace(
        analysis.radiograph, format="DICOM", tags={"ViewPosition": HOSTILE, HOSTILE: "PA"}, notes=(HOSTILE,)
    )
    text = report.html(replace(analysis, radiograph=radiograph))
    page = Page(text)
    assert not page.open and "script" not in page.tags
    assert page.text.count("<script src=//evil.example/x.js></script>") == 3
    assert "\u202e" not in text and "\x00" not in text
    assert all(link.startswith(("data:image/png", "https://doi.org/")) for link in page.links)
    assert report.pdf(replace(analysis, radiograph=radiograph)).startswith(b"%PDF-")


@given(st.text(max_size=60))
def test_any_text_survives_as_text(text: str) -> None:
    from cxnet.report._content import Section, Table, Text
    from cxnet.report._html import write_html

    page = Page(write_html("Title", text, [Section(text, (Text(text), Table(text, (), ((text, text),))))]))
    assert not page.open and page.tags.count("section") == 1 and set(page.tags) <= {
        "html", "head", "meta", "title", "style", "body", "header", "main", "h1", "h2", "p", "section", "div",
        "table", "caption", "tbody", "tr", "th", "td", "a",
    }  # fmt: skip
    if text.isprintable():
        assert " ".join(text.split()) in page.text


# -------------------------------------------------------------------------------------------------------------- LIME


def test_missing_and_partial_lime_are_told(analysis: Analysis) -> None:
    missing = with_(analysis, lime=None)
    text = Page(report.html(missing)).text
    assert "LIME was not run for this report." in text
    assert "--methods grad-cam " in report.command(missing)
    partial = with_(analysis, finished=False)
    text = Page(report.html(partial)).text
    assert "LIME was stopped after 32 samples" in text and "LIME for Normal (partial)" in text
    assert "LIME was stopped" not in Page(report.html(analysis)).text


@pytest.mark.parametrize(
    ("r2", "told"),
    [(0.29, "Do not interpret LIME's map"), (0.31, "LIME's map is weak"), (0.5, None), (None, "Do not interpret")],
)
def test_the_surrogate_is_judged_by_its_held_out_fit(analysis: Analysis, r2: float | None, told: str | None) -> None:
    text = Page(report.html(with_(analysis, r2_held_out=r2, r2=r2))).text
    assert (told in text) if told else "LIME's map is weak" not in text and "Do not interpret" not in text
    assert f"held out {'undefined' if r2 is None else f'{r2:.2f}'}" in text


def test_without_an_audit_nothing_is_said_about_reasons(analysis: Analysis) -> None:
    text = Page(report.html(analysis)).text
    assert "No audit was made" in text and "Verdict:" not in text
    with zipfile.ZipFile(io.BytesIO(report.bundle(analysis))) as archive:
        assert "verdict.json" not in archive.namelist()


# --------------------------------------------------------------------------------------------------- PDF and bundle


def test_the_pdf_holds_the_same_facts_and_the_notice_on_each_page(
    analysis: Analysis, audited: CaseAudit, page: Page
) -> None:
    data = report.pdf(analysis, audited)
    assert b"/CreationDate (D:2000" in data, "the library's fixed date"
    count = len(re.findall(rb"/Type /Page\b", data))
    assert 4 <= count <= 12
    assert len(re.findall(rb"/Subtype /Image", data)) >= 6
    pdfium = pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed, so the PDF's text cannot be read")
    document = pdfium.PdfDocument(data)
    texts = [document[number].get_textpage().get_text_range() for number in range(len(document))]
    document.close()
    assert len(texts) == count
    assert all(NOTICE in text for text in texts)
    whole, wanted = (re.sub(r"[\s\ufffe]+", "", text) for text in (" ".join(texts), page.text))
    assert analysis.radiograph.sha256 in whole and f"Verdict:{audited.verdict.name}".replace(" ", "") in whole
    for row in re.findall(r"<t[hd][^>]*>([^<]+)</t[hd]>", report.html(analysis, audited)):
        cell = re.sub(r"\s+", "", Page(row).text)
        assert cell in whole and cell in wanted, cell


def test_the_bundle_holds_what_its_manifest_says(analysis: Analysis, audited: CaseAudit) -> None:
    with zipfile.ZipFile(io.BytesIO(report.bundle(analysis, audited))) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    manifest = json.loads(files.pop("manifest.json"))
    assert set(files) == {
        "analysis.json", "heatmaps.npz", "verdict.json",
        "radiograph.png", "as-the-model-sees-it.png", "grad-cam.png", "lime.png",
    }  # fmt: skip
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == {
        name: hashlib.sha256(content).hexdigest() for name, content in files.items()
    }
    assert manifest["command"] == report.command(analysis, audited) and manifest["notice"] == NOTICE
    assert files["analysis.json"].decode() == dumps(analysis)
    assert json.loads(files["verdict.json"])["verdict"] == audited.verdict.name
    with np.load(io.BytesIO(files["heatmaps.npz"])) as maps:
        np.testing.assert_array_equal(maps["lime"], analysis.explanations["lime"].heatmap)
    picture = cv2.imdecode(np.frombuffer(files["grad-cam.png"], np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[:2] == analysis.radiograph.pixels.shape


# ------------------------------------------------------------------------------------------------------- the command


def run_command(text: str, file: Path, folder: Path) -> dict[str, bytes]:
    """What the command of a report writes."""
    words = shlex.split(text)
    assert words[:4] == ["python", "-m", "cxnet", "report"]
    words[words.index("DIR")] = str(folder)
    words = [str(file) if word == "FILE" else word for word in words]
    assert main(words[3:]) == 0
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same_again(analysis: Analysis, audited: CaseAudit | None, file: Path, folder: Path) -> None:
    text = report.command(analysis, audited)
    page = report.html(analysis, audited)
    assert text in Page(page).text
    assert run_command(text, file, folder) == {
        "report.html": page.encode(),
        "report.pdf": report.pdf(analysis, audited),
        "bundle.zip": report.bundle(analysis, audited),
    }


def test_the_command_gives_the_report_byte_for_byte(analysis: Analysis, file: Path, tmp_path: Path) -> None:
    same_again(analysis, None, file, tmp_path / "again")


@pytest.mark.slow
def test_the_command_gives_an_audit_byte_for_byte(
    analysis: Analysis, audited: CaseAudit, file: Path, tmp_path: Path
) -> None:
    same_again(analysis, audited, file, tmp_path / "again")


def test_a_report_without_lime_on_a_sample_comes_again_too(models: Models, tmp_path: Path) -> None:
    radiograph = report.synthetic_radiograph("normal-marker", 320)
    asked = Settings(methods=("grad-cam", "lime"))
    quick = analyse(radiograph, models, replace(asked, methods=("grad-cam",)))
    shown = replace(quick, settings=asked)  # as a page has it before LIME was started
    text = report.command(shown)
    assert "sample:normal-marker:320" in text
    found = run_command(text, Path("none"), tmp_path)
    assert found["report.html"] == report.html(shown).encode() and found["bundle.zip"] == report.bundle(shown)


@given(
    target=st.sampled_from([None, "COVID-19", "Normal"]),
    methods=st.sets(st.sampled_from(["grad-cam", "grad-cam++", "lime"])),
    seed=st.integers(0, 2**31),
    superpixels=st.integers(5, 400),
    lime=st.builds(
        LimeSettings,
        samples=st.integers(16, 5000),
        design=st.sampled_from(["balanced", "random"]),
        kernel_width=st.floats(0.01, 2),
        fill=st.sampled_from(["blur", "mean", "black"]),
        stop_when_stable=st.booleans(),
        top_k=st.integers(1, 50),
    ),
    enhancement=st.builds(
        Enhancement,
        text_removal=st.booleans(),
        equalization=st.booleans(),
        smoothing_sigma_px=st.floats(0, 20),
        beasf_gamma=st.floats(0.1, 20),
    ),
)
def test_settings_survive_the_command(analysis, target, methods, seed, superpixels, lime, enhancement) -> None:
    lime = replace(lime, seed=seed)
    settings = Settings("covid-cxnet", target, tuple(sorted(methods)), enhancement, lime, superpixels, seed)
    some = analysis.explanations["grad-cam"]
    shown = replace(analysis, settings=settings, explanations={m: replace(some, method=m) for m in methods})
    words = shlex.split(report.command(shown))[5:]
    options: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            options[word[2:]] = []
        else:
            options[next(reversed(options))].append(word)
    assert options.pop("out") == ["DIR"]
    single = {k: v[0] for k, v in options.items() if k in ("model", "target", "methods")}
    numbers = {k: int(v[0]) for k, v in options.items() if k in ("seed", "superpixels")}
    changes = {k: v for k, v in options.items() if k in ("lime", "enhancement")}
    assert report.settings_of(**single, **numbers, **changes) == settings


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--lime", "colour=red"], "Unknown option 'colour'"),
        (["--lime", "samples=many"], "samples needs a value of type int"),
        (["--lime", "seed=4"], "Unknown option 'seed'"),
        (["--enhancement", "text_removal=maybe"], "needs True or False"),
        (["--target", "Asthma"], "Unknown class"),
        (["--model", "unet"], "does not classify"),
        (["--methods", "magic"], "Unknown method"),
    ],
)
def test_wrong_options_are_one_sentence(
    words: list[str], match: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(file), "--out", str(tmp_path / "out"), *words]) == 2
    told = capsys.readouterr().err
    assert match in told and len(told.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_files_and_samples_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="choose from normal"):
        report.open_case("sample:none:320")
    with pytest.raises(RadiographError):
        report.open_case(str(tmp_path / "sample.png"))


def test_a_radiograph_called_synthetic_is_not_taken_for_a_sample(analysis: Analysis) -> None:
    other = Radiograph(analysis.radiograph.pixels, "0" * 64, "synthetic", notes=("Drawn by hand.",))
    assert " FILE " in report.command(replace(analysis, radiograph=other))


def test_the_page_offers_all_three() -> None:
    at = AppTest.from_file(str(Path(__file__).parents[1] / "app.py"), default_timeout=60)
    at.query_params["sample"] = "normal"
    at.run()
    assert not at.exception
    labels = [button.proto.label for button in at.get("download_button")]
    assert labels == ["Report (HTML)", "Report (PDF)", "Bundle (zip)"]
