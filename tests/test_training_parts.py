"""The parts that a training is made of: phases, augmentation, what it starts from, and prepared pictures."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxnet.architectures import REGIONS
from cxnet.enhance import Enhancement
from cxnet.errors import SettingsError
from cxnet.lungs import LungMask, crop_to_lungs, look_at
from cxnet.phantom import make_phantom
from cxnet.training import (
    RECIPES,
    Augmentation,
    learning_rate_range_test,
    phases_of,
    prepare,
    start_as_linear,
)
from tests.tiny_training import TINY, build_tiny, make_dataset, silent, tiny  # noqa: F401

# --------------------------------------------------------------------------------------------------------- phases


def test_rahimzadeh_s_eight_phases() -> None:
    """Table 2 and flowchart 3: 149 + 34 common in all, 250 normal and 200 further pneumonia each, 633 a phase."""
    labels = np.array(["COVID-19"] * 149 + ["Normal"] * 2000 + ["Pneumonia"] * 1634)
    sources = np.array(["cohen"] * 149 + ["rsna"] * 2000 + ["cohen"] * 34 + ["rsna"] * 1600)
    order = np.random.default_rng(0).permutation(len(labels))
    labels, sources = labels[order], sources[order]
    phases = phases_of(labels, sources, RECIPES["rahimzadeh"], np.random.default_rng(1))
    assert [len(phase) for phase in phases] == [633] * 8
    counts = np.bincount(np.concatenate(phases), minlength=len(labels))
    common = (labels == "COVID-19") | ((labels == "Pneumonia") & (sources == "cohen"))
    assert (counts[common] == 8).all() and (counts[~common] == 1).all() and common.sum() == 183
    for phase in phases:
        names, found = np.unique(labels[phase], return_counts=True)
        assert dict(zip(names, found, strict=True)) == {"COVID-19": 149, "Normal": 250, "Pneumonia": 234}


@given(
    st.lists(st.sampled_from("abc"), min_size=3, max_size=60), st.integers(1, 9), st.integers(0, 40), st.integers(0, 99)
)
def test_phases_use_every_case(labels: list[str], phases: int, common: int, seed: int) -> None:
    recipe = replace(RECIPES["rahimzadeh"], phases=phases, common_other=common)
    sources = np.array(labels)[::-1]
    parts = phases_of(np.array(labels), sources, recipe, np.random.default_rng(seed))
    counts = np.bincount(np.concatenate(parts), minlength=len(labels))
    assert len(parts) == phases and set(counts) <= {1, phases}
    names, totals = np.unique(labels, return_counts=True)
    rare = np.array(labels) == names[totals.argmin()]
    assert (counts[rare] == phases).all()
    assert phases == 1 or (counts[~rare] == phases).sum() <= common


# ------------------------------------------------------------------------------------------------------ augmentation


def picture(size: int = 40) -> Any:
    return np.random.default_rng(1).integers(0, 256, (size, size, 3), dtype=np.uint8)


@given(st.integers(0, 10_000))
def test_no_augmentation_changes_nothing(seed: int) -> None:
    stack = picture()
    changed = Augmentation()(stack, np.random.default_rng(seed))
    np.testing.assert_array_equal(changed, stack)
    assert changed is not stack and changed.dtype == np.uint8


def test_flips_are_mirror_images_half_of_the_time() -> None:
    stack = picture()
    wanted = [stack, stack[:, ::-1], stack[::-1], stack[::-1, ::-1]]
    counts = [0] * 4
    for seed in range(200):
        changed = Augmentation(flip_horizontal=True, flip_vertical=True)(stack, np.random.default_rng(seed))
        fits = [np.array_equal(changed, other) for other in wanted]
        assert sum(fits) == 1
        counts[fits.index(True)] += 1
    assert min(counts) > 25


def test_gain_multiplies_and_gamma_bends_the_grey_levels() -> None:
    stack = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, 0).repeat(3, 2)
    for seed in range(20):
        bright = Augmentation(gain=0.2)(stack, np.random.default_rng(seed))[0, :, 0].astype(float)
        factor = bright[100] / 100
        assert 0.79 < factor < 1.21
        np.testing.assert_allclose(bright, np.minimum(np.arange(256) * factor, 255), atol=2)
        bent = Augmentation(gamma=0.3)(stack, np.random.default_rng(seed))[0, :, 0].astype(float)
        assert bent[0] == 0 and bent[255] == 255 and (np.diff(bent) >= 0).all()
        exponent = np.log(bent[128] / 255) / np.log(128 / 255)
        assert np.exp(-0.31) < exponent < np.exp(0.31)


def test_geometry_stays_in_its_range() -> None:
    """A dot's place tells the transform: a shift by at most its share, a turn about the centre by at most its angle."""
    stack = np.zeros((101, 101, 1), np.uint8)
    stack[48:53, 78:83] = 255  # 30 right of the centre
    x, y = np.meshgrid(np.arange(101), np.arange(101))

    def centre(changed: Any) -> Any:
        mass = changed[:, :, 0].astype(float)
        return np.array([(mass * x).sum(), (mass * y).sum()]) / mass.sum() - 50

    moves, angles, radii = [], [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        moves.append(centre(Augmentation(shift=0.1)(stack, rng)) - [30, 0])
        place = centre(Augmentation(rotation_deg=15)(stack, rng))
        angles.append(np.degrees(np.arctan2(place[1], place[0])))
        radii.append(np.hypot(*place))
        zoomed = centre(Augmentation(zoom=0.2)(stack, rng))
        assert 30 * 0.79 < zoomed[0] < 30 * 1.21 and abs(zoomed[1]) < 0.2
    assert 9 < np.abs(moves).max() < 10.3 and 13 < np.abs(angles).max() < 15.2
    np.testing.assert_allclose(radii, 30, atol=0.3)


# ------------------------------------------------------------------------------------------------------- starting


def test_start_as_linear_is_exact() -> None:
    import keras

    keras.utils.set_random_seed(0)
    network = build_tiny()
    linear = keras.layers.Dense(3, name="linear")
    pooled = network.get_layer("fc").input
    other = keras.Model(network.input, linear(pooled))
    linear.bias.assign([0.5, -1.0, 2.0])
    images = np.random.default_rng(0).normal(size=(6, 64, 64, 3)).astype(np.float32)
    wanted = np.asarray(other(images))
    assert np.abs(np.asarray(network(images)) - wanted).max() > 0.1
    start_as_linear(network, linear, ("fc", "output"))
    np.testing.assert_allclose(np.asarray(network(images)), wanted, atol=1e-5)
    assert np.abs(network.get_layer("fc").kernel[:, 6:]).max() > 0, "units that are left stay random"
    six = keras.layers.Dense(6)
    six.build((None, 12))
    with pytest.raises(SettingsError, match="10 units cannot start as 6"):
        start_as_linear(network, six, ("fc", "output"))


@pytest.mark.parametrize("seed", range(3))
def test_the_range_test_finds_a_rate_that_learns(seed: int) -> None:
    """Adam moves each weight by about the rate a step, so weights of about 1 need a rate of 1e-3 to 1e-1."""
    import keras

    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(640, 10)).astype(np.float32)
    y = np.eye(2, dtype=np.float32)[(x @ rng.normal(size=10) > 0).astype(int)]
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(2)])
    start = model.get_weights()

    def batch(step: int) -> tuple[Any, Any]:
        at = 32 * (step % 20)
        return x[at : at + 32], y[at : at + 32]

    found = learning_rate_range_test(model, batch)
    assert 1e-3 < found["rate"] < 1e-1
    assert len(found["rates"]) == len(found["losses"]) <= 60 and found["rates"] == sorted(found["rates"])
    assert found["rates"][0] == 1e-6
    losses = []
    for rate in (1e-6, found["rate"]):
        model.set_weights(start)
        model.compile(
            keras.optimizers.Adam(rate), keras.losses.CategoricalCrossentropy(from_logits=True), jit_compile=False
        )
        losses.append([float(np.ravel(model.train_on_batch(*batch(step)))[0]) for step in range(60)][-1])
    assert losses[1] < 0.6 * losses[0]


# -------------------------------------------------------------------------------------------------- regions and cache


def test_regions_show_what_they_say() -> None:
    phantom = make_phantom(3, 256)
    lungs = LungMask(phantom.lungs)
    pixels = np.maximum(phantom.pixels, 1)
    shown = {region: look_at(pixels, lungs, region) for region in REGIONS}
    np.testing.assert_array_equal(shown["full"][0], pixels)
    inside, outside = shown["lung-mask"][0] > 0, shown["background"][0] > 0
    assert inside[phantom.lungs].all() and not outside[phantom.lungs].any()
    np.testing.assert_array_equal(inside, ~outside)  # with its rim, each pixel is in one of the two
    far = cv2.dilate(phantom.lungs.astype(np.uint8), np.ones((25, 25))) == 0
    assert not inside[far].any() and outside[far].all()
    picture, crop = shown["lung-crop"]
    assert crop == crop_to_lungs(phantom.lungs)
    np.testing.assert_array_equal(picture, pixels[crop.top : crop.bottom, crop.left : crop.right])
    # a point of the square input goes back to where it was in the radiograph
    rows, columns = np.mgrid[0:256, 0:256].astype(np.float32)
    for values, axis in ((columns, 0), (rows, 1)):
        part = values[crop.top : crop.bottom, crop.left : crop.right]
        small = cv2.resize(part, (64, 64), interpolation=cv2.INTER_AREA)
        back = np.einsum("ij,jyx->iyx", crop.affine(64), np.stack([*np.mgrid[0:64, 0:64][::-1], np.ones((64, 64))]))
        np.testing.assert_allclose(back[axis], small, atol=0.75)
    nothing = LungMask(np.zeros((256, 256), np.bool_))
    for region in REGIONS:
        np.testing.assert_array_equal(look_at(pixels, nothing, region)[0], pixels)


def test_prepared_pictures_with_masks_of_the_manifest(tmp_path: Path) -> None:
    table = make_dataset(tmp_path, 1)
    masks = ["co.png", "", "gone.png"]
    table["outline"] = masks
    mask = np.zeros((128, 128), np.uint8)
    mask[32:96, 16:48] = mask[32:96, 80:112] = 255
    cv2.imwrite(str(tmp_path / "co.png"), mask)

    def ready(region: Any) -> Any:
        return prepare(table, tmp_path, TINY, region, Enhancement(), tmp_path / "cache", silent, "outline")

    crop = ready("lung-crop")
    assert list(crop.problems) == [2] and "gone.png cannot be read" in crop.problems[2]
    np.testing.assert_array_equal(crop.outlines[0], mask[::2, ::2] > 0)
    whole = crop_to_lungs(mask > 0)
    np.testing.assert_allclose(crop.boxes[0] * 128, [whole.top, whole.bottom, whole.left, whole.right])
    assert crop.stacks.shape == (3, 64, 64, 3) and not crop.stacks[2].any() and crop.stacks[1].any()
    assert crop.outlines[1].any(), "without a mask the radiograph is segmented"
    background = ready("background")
    grey = background.stacks[0, :, :, 0]  # enhancement lifts black a little
    assert not grey[background.lungs[0]].any() and grey.any()
    kept = sorted(entry.name for entry in (tmp_path / "cache").iterdir())
    assert len(kept) == 2
    np.testing.assert_array_equal(ready("background").stacks, background.stacks)
    cv2.imwrite(str(tmp_path / "co.png"), 255 - mask)  # another mask under the same name is not taken from the cache
    assert not np.array_equal(ready("background").stacks, background.stacks)


def test_two_trainings_prepare_the_same_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, cache, others = make_dataset(tmp_path, 1), tmp_path / "cache", []

    def ready(say: Any) -> Any:
        return prepare(table, tmp_path, TINY, "full", Enhancement(), cache, say)

    def another(sentence: str) -> None:
        """A second process begins and ends while the first one is at its last picture."""
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 1)
            others.append(ready(silent))

    first = ready(another)
    assert len(others) == 1 and first.stacks.any()
    np.testing.assert_array_equal(first.stacks, others[0].stacks)
    assert len(list(cache.iterdir())) == 1
