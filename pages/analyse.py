"""Drop a radiograph, see what a network says, where it looked, and how far to trust the map."""

from functools import partial

import streamlit as st

from pages import _navigation

_navigation.require_entry()

from cxnet.analysis import Analysis, Settings  # noqa: E402
from cxnet.enhance import Enhancement  # noqa: E402
from cxnet.errors import CxnetError  # noqa: E402
from cxnet.explain import METHODS  # noqa: E402
from cxnet.explain.lime import LimeSettings  # noqa: E402
from pages import _jobs, _map_tests, _panels, _session, _uploader, _welcome, _whatif  # noqa: E402
from pages._viewer import viewer  # noqa: E402

_panels.notice()


def choose_settings() -> tuple[Settings, str, bool]:
    """Everything in the sidebar: settings of the analysis, the channel to show, whether scales are shared."""
    with st.sidebar:
        known = _session.choose_network()
        model = known.name
        targets = ["predicted", *known.classes]
        target = _session.setting(
            st.selectbox, "Class to explain", "target", "predicted", targets,
            format_func=lambda name: "the predicted class" if name == "predicted" else name,
        )  # fmt: skip
        maps = _session.setting(
            st.multiselect, "Maps", "maps", ["grad-cam"], [m for m in METHODS if m != "lime"],
            format_func=METHODS.get, help="Grad-CAM++ and Score-CAM start TensorFlow: the first one takes a while.",
        )  # fmt: skip
        shared = _session.setting(
            st.checkbox, "Shared colour scale", "shared", False,
            help="Grad-CAM on one scale for all classes, not stretched to its maximum.",
        )  # fmt: skip
        with st.expander("Preprocessing", expanded=True):
            channels = list(dict.fromkeys(known.channels))
            channel = _session.setting(
                st.radio, "Channel shown", f"channel-{model}", channels[0], channels,
                format_func=_panels.CHANNEL_TITLES.get, horizontal=True,
            )  # fmt: skip
            enhancement = choose_enhancement(model, known.enhancement)
        with st.expander("LIME"):
            samples = _session.setting(
                st.select_slider, "Samples at most", "samples", 1000, [100, 200, 300, 500, 1000, 2000]
            )
            superpixels = _session.setting(st.slider, "Superpixels", "superpixels", 60, 20, 150, step=10)
            design = _session.setting(st.radio, "Design", "design", "balanced", ["balanced", "random"], horizontal=True)
            early = _session.setting(st.checkbox, "Stop when the top five have settled", "early", True)
            seed = int(_session.setting(st.number_input, "Seed", "seed", 0, 0, 2**31 - 1))
        st.button("Forget everything", on_click=_session.forget, help="Drops all radiographs and results of this tab.")
    first = next(iter(_session.networks()))
    _session.write_url(model=model if model != first else None, target=target if target != "predicted" else None)
    settings = Settings(
        model=model,
        target=None if target == "predicted" else target,
        methods=(*maps, "lime"),
        enhancement=enhancement,
        lime=LimeSettings(samples=samples, design=design, seed=seed, stop_when_stable=early),
        superpixels=superpixels,
        seed=seed,
    )
    return settings, channel, shared


def choose_enhancement(model: str, own: Enhancement) -> Enhancement:
    """Switches of the preprocessing; a network starts with those that it was trained with."""

    def choose(widget, title: str, name: str, *options, **more):
        return _session.setting(widget, title, f"{name}-{model}", getattr(own, name), *options, **more)

    return Enhancement(
        text_removal=choose(st.checkbox, "Remove text and markers (inpainting)", "text_removal"),
        histogram_matching=choose(st.checkbox, "Match histogram to the training radiographs", "histogram_matching"),
        equalization=choose(st.checkbox, "Equalise histogram", "equalization"),
        smoothing_sigma_px=choose(
            st.slider, "Gaussian smoothing, sigma in px", "smoothing_sigma_px", 0.0, 5.0, step=0.5
        ),
        clahe_clip_limit_opencv=choose(
            st.slider, "CLAHE clip limit (OpenCV's scale)", "clahe_clip_limit_opencv", 0.5, 10.0, step=0.5
        ),
        beasf_gamma=choose(st.slider, "BEASF γ", "beasf_gamma", 0.5, 5.0, step=0.25),
    )


def choose_case() -> str | None:
    """Uploader and picker, in one line once a radiograph is open; None until something was chosen."""
    _session.restore_case()
    (third,) = _uploader.uploader(st.session_state.get("case") is not None, 5)
    if st.session_state.get("link_error"):
        st.error(st.session_state["link_error"], icon=":material/error:")
    with third:
        case = st.selectbox(
            "Radiograph",
            _session.cases(),
            index=None,
            key="case",
            on_change=_session.drop_link_error,
            format_func=_session.case_title,
            placeholder="… or choose a synthetic sample",
        )
    _session.remember_case(case)
    return case


def empty_state() -> None:
    """Samples to start with, and what the chosen network reached."""
    st.info("Drop a frontal chest radiograph above, or start with a synthetic sample.", icon=":material/arrow_upward:")
    _welcome.offer_tour()
    shelf = st.grid(4, min_column_width=150, width=1100)  # two in a row on a phone, never larger than they are drawn
    for name in ("normal", "ground-glass", "consolidation", "normal-marker"):
        sample = _session.SAMPLES_BY_NAME[name]
        with shelf.cell():
            st.image(_session.sample_phantom(name, 256).pixels, alt=sample.caption, width="stretch")
            st.button(
                sample.title, key=f"open-{name}", width="stretch",
                on_click=lambda chosen=name: st.session_state.update(case=f"sample:{chosen}", link_error=None),
            )  # fmt: skip
            st.caption(sample.caption)
    _panels.sensitivities(_session.networks()[settings.model])


def show_job(job: _jobs.Job | None, active: bool, drawn: int, submit) -> None:
    """Start button; or progress, cancel, and a fresh drawing when there is more to show."""
    if job is not None and active:
        _jobs.follow(job, lime_progress, "cancel-lime", drawn)
        return
    if job is not None and job.state == "failed":
        st.error(job.error or "The explanation failed.", icon=":material/error:")
    if st.button("Run LIME" if job is None else "Run LIME again", type="primary", key="run-lime"):
        try:
            submit()
        except CxnetError as error:
            st.error(str(error), icon=":material/error:")
        else:
            st.rerun()


def lime_progress(found: Analysis | None) -> tuple[float, str]:
    """How far LIME is."""
    done = found.explanations["lime"].samples if found is not None and "lime" in found.explanations else 0
    most = settings.lime.samples
    return done / most, f"LIME: {done} of at most {most} samples"


def work() -> None:
    """Viewer and figures."""
    job = _session.job_of(key)
    # in this order: what arrives meanwhile is drawn by the next run
    active, updates, found = (job.active, job.updates, job.partial) if job is not None else (False, 0, None)
    shown: Analysis = found if found is not None and "lime" in found.explanations else quick
    drawn = _panels.panels(shown, models, channel, shared)
    box = viewer(drawn, shown.lungs.mask, key="viewer", radiograph=radiograph, boxes=True)

    def submit() -> None:
        _session.start_job(key, _jobs.submit("lime", partial(_jobs.lime_steps, quick, models, settings)))

    show_job(job, active, updates, submit)
    if job is not None and job.state == "cancelled" and shown is found:
        st.info(
            f"LIME was stopped after {shown.explanations['lime'].samples} samples; its map is partial.",
            icon=":material/stop_circle:",
        )
    left, right = st.columns([3, 2])
    with left:
        _panels.prediction(quick)
    with right:
        if quick.lungs.ok:
            _panels.lungs(quick)
        _panels.how_often(quick)
        if radiograph.tags:
            with st.expander("Technical tags (the only ones that are kept)"):
                st.table(dict(radiograph.tags))
    left, right = st.columns([3, 2])
    with left, st.container(key="figures"):
        _panels.figures(shown)
    with right:
        _panels.how_good(shown)
    _whatif.section(shown, models, box, job)
    _map_tests.section(shown, models)
    st.caption(
        "No wrong reason found is not a right reason proven: a map shows where a network found evidence, not why, "
        "and shortcuts such as contrast have no place on a map."
    )
    _panels.downloads(shown, _whatif.audit_of(shown))


_session.warm_up()
_session.open_from_url()
settings, channel, shared = choose_settings()
case = choose_case()
if case is None:
    empty_state()
    st.stop()
radiograph = _session.radiograph_of(case)
key = _session.lime_key(radiograph, settings)
try:
    models = _session.models(settings.model)
    quick = _session.analysis_of(radiograph, settings)
except CxnetError as error:
    st.error(str(error), icon=":material/error:")
    st.stop()
if radiograph.notes:
    st.caption(" ".join(f"• {note}" for note in radiograph.notes))
_panels.output(quick)
if not quick.lungs.ok:
    _panels.lungs(quick)  # a warning goes before the pictures that it is about
work()
