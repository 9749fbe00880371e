"""Compressive sensing with a convolutional network, which recovers all blocks of a picture together."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_pictures import save, scene

import cuista
from cuista.data.dictionary import Dictionary, random_dictionary
from cuista.data.images import prepare_images
from cuista.data.sensing import Sensing, principal_sensing, random_sensing
from cuista.errors import FileError, InputError
from cuista.metrics import psnr_db
from cuista.operators.blocks import BlockProjection, blocks_of, pictures_of
from cuista.ops import CpuOps
from cuista.tasks.denoising import Denoiser, Denoising, PictureFastRecipe
from cuista.tasks.sensing import evaluate_reconstructors
from cuista.tasks.whole_pictures import PictureReconstructor, PictureSensing, WholePictureRecipe
from cuista.training import train
from cuista.training.adam import Adam

QUICK = WholePictureRecipe(batch=2, validation_batch=4, matrix_steps=20)


@pytest.fixture
def images(tmp_path):
    """A file of six pictures."""
    (tmp_path / "pictures").mkdir()
    for number in range(6):
        save(tmp_path / "pictures" / f"{number}.png", scene((40, 52), seed=number))
    prepare_images(tmp_path / "pictures", tmp_path / "images.h5", split=(3, 2, 1))
    return tmp_path / "images.h5"


def sensed(block=(4, 4), M=6):
    return Sensing(random_sensing(block, M), block)


def untrained(sensing=None, **options):
    return PictureReconstructor.new(sensing or sensed(), layers=2, **options)


def task(images, crop=24):
    return PictureSensing(images, crop)


# -- blocks -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(1, 3), st.tuples(st.integers(1, 5), st.integers(1, 5)), st.integers(1, 3))
def test_pictures_consist_of_their_blocks(n1, n2, block, batch):
    shape = n1 * block[0], n2 * block[1]
    pictures = np.arange(batch * shape[0] * shape[1]).reshape(batch, *shape)
    blocks = blocks_of(pictures, block)
    np.testing.assert_array_equal(blocks[0, -1].reshape(block), pictures[0, -block[0] :, -block[1] :])
    np.testing.assert_array_equal(pictures_of(blocks, block, shape), pictures)


@given(st.integers(1, 20), st.integers(0, 100))
def test_what_is_measured_is_a_projection_which_is_its_own_adjoint(M, seed):
    rng = np.random.default_rng(seed)
    Phi = rng.standard_normal((M, 15))
    Phi[-1] = Phi[0]  # measured twice
    G = BlockProjection(Phi, (3, 5), dtype=np.float64)
    f, g = rng.standard_normal((2, 2, 9, 10))
    seen = G(f)
    np.testing.assert_allclose(blocks_of(seen, (3, 5)) @ Phi.T, blocks_of(f, (3, 5)) @ Phi.T, atol=1e-10)
    np.testing.assert_allclose(G(seen), seen, atol=1e-12)
    assert np.vdot(seen, g) == pytest.approx(np.vdot(f, G(g)))


def test_what_is_measured_of_a_picture_does_not_depend_on_the_others(rng):
    pictures = rng.random((7, 32, 48)).astype(np.float32)
    model = untrained(Sensing(rng.random((50, 256)), (16, 16)))
    whole = model.sensed(pictures)
    for part in (slice(0, 1), slice(2, 5), slice(6, 7)):
        np.testing.assert_array_equal(model.sensed(pictures[part]), whole[part])


# -- recovery ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 12), (9, 11), (30, 41)])
@pytest.mark.parametrize("measures_means", [True, False])
def test_what_is_recovered_agrees_with_the_measurements(shape, measures_means, rng):
    Phi = random_sensing((4, 4), 6) if measures_means else rng.random((6, 16))
    sensing = Sensing(Phi, (4, 4))
    assert sensing.measures_means is measures_means
    model, picture = untrained(sensing, dtype=np.float64), scene(shape)
    y = sensing.measure(picture)
    found = model.reconstruct(y, shape)
    assert found.shape == shape
    whole = tuple(size // 4 for size in shape)  # the blocks that lie inside of the picture entirely
    inside = slice(0, 4 * whole[0]), slice(0, 4 * whole[1])
    np.testing.assert_allclose(sensing.measure(found[inside]), sensing.measure(picture[inside]), atol=1e-9)


def by_block():
    """An untrained network that recovers one block at a time, with the same Φ."""
    atoms = Dictionary(random_dictionary((4, 4), 24))
    return cuista.Reconstructor.new(Sensing(sensed().Phi, atoms), layers=2)


@pytest.mark.parametrize("model", [untrained(), by_block()], ids=lambda model: model.kind)
def test_channels_are_recovered_together(model, rng):
    y = rng.random((3, 9, 6))
    found = model.reconstruct(y, (9, 11))
    for channel, picture in zip(y, found, strict=True):
        np.testing.assert_array_equal(model.reconstruct(channel, (9, 11)), picture)


def test_training_recovers_pictures_and_a_file_brings_all_back(images, tmp_path):
    model = train(untrained(), QUICK, task=task(images), out=tmp_path / "m.h5")
    loaded, y = cuista.load(tmp_path / "m.h5"), model.sensing.measure(scene((30, 41)))
    found = model.reconstruct(y, (30, 41))
    np.testing.assert_array_equal(loaded.reconstruct(y, (30, 41)), found)
    np.testing.assert_array_equal(Sensing.load(tmp_path / "m.h5").Phi, model.sensing.Phi)
    assert loaded.facts() == model.facts()
    assert "6 measurements of each block of 4×4 (37.5 %)" in str(model)
    least_norm = model.sensing.picture(model.sensing.least_norm(y), (30, 41))
    assert psnr_db(found, scene((30, 41))) > psnr_db(least_norm, scene((30, 41))) + 0.5


def test_pictures_of_several_shapes_are_tested_beside_networks_for_blocks(images):
    model = train(untrained(), QUICK, task=task(images))
    report = evaluate_reconstructors({"conv-csc": model, "alista": by_block()}, images)
    assert report.methods == ("least norm", "conv-csc", "alista")
    assert report.psnr_db[0, 1] > report.psnr_db[0, 0] + 0.5


def test_an_interrupted_run_is_resumed_to_the_bit(images, tmp_path):
    whole = train(untrained(), QUICK, task=task(images), seed=3)

    def stop(at):
        if at.title == "everything" and at.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(untrained(), QUICK, task=task(images), seed=3, out=tmp_path / "m.h5", checkpoint_seconds=0, progress=stop)
    resumed = train(untrained(), QUICK, task=task(images), seed=3, out=tmp_path / "m.h5", resume=True)
    for name, value in whole.network.parameters.items():
        np.testing.assert_array_equal(resumed.network.parameters[name], value)


@pytest.fixture
def rates(monkeypatch, caplog):
    """The learning rates of thresholds at each step of a training, which loses its filters at the hundredth one."""
    step, found = Adam.step, []

    def spoil(self, ops, parameters, gradients, given, *rest, **options):
        result = step(self, ops, parameters, gradients, given, *rest, **options)
        found.append(given["threshold"])
        if len(found) == 100:
            parameters["weight"] *= 0  # nothing is added to what is measured
            parameters["synthesis"] *= 0
        return result

    caplog.set_level("INFO", "cuista")
    monkeypatch.setattr(Adam, "step", spoil)
    return found


def test_a_run_that_falls_back_goes_on_from_its_best_parameters(images, rates, caplog):
    recipe = WholePictureRecipe(batch=2, validation_batch=4, matrix_steps=200)
    model = train(untrained(), recipe, task=task(images))
    (_, stage), errors = recipe.stages(2, more=True), model.history["nmse_db"]
    np.testing.assert_allclose(rates, [0.01 * stage.rate_at(t) * (0.5 if t >= 100 else 1) for t in range(200)])
    assert "the validation PSNR is worse than before by" in caplog.text
    assert model.training["validation_nmse_db"] == errors.min() == errors[-1]


def test_the_training_of_a_denoiser_goes_back_too(images, rates, caplog):
    model = Denoiser.new(untrained().weight, "conv-csc", layers=2, sigma=25.0)
    recipe = PictureFastRecipe(batch=2, validation_batch=4, max_steps=0, matrix_steps=200)
    train(model, recipe, task=Denoising(images, 24))
    assert "the validation PSNR is worse than before by" in caplog.text
    assert rates[100] == pytest.approx(0.5 * rates[99], rel=0.05)


def test_a_run_has_the_same_bits_on_any_number_of_workers(images, monkeypatch):
    results = []
    for workers in ("1", "2"):
        monkeypatch.setenv("CUISTA_WORKERS", workers)
        results.append(train(untrained(ops=CpuOps()), QUICK, task=task(images)).network.parameters)
    for name, value in results[0].items():
        np.testing.assert_array_equal(results[1][name], value)


def test_the_cuda_engine_trains_to_the_same(cuda, images):
    few = WholePictureRecipe(batch=2, validation_batch=2, max_steps=1, matrix_steps=2)
    plain = train(untrained(dtype=np.float64), few, task=task(images, 12))
    other = train(untrained(ops=cuda, dtype=np.float64), few, task=task(images, 12))
    for name, value in plain.network.parameters.items():
        np.testing.assert_allclose(other.network.ops.to_numpy(other.network.parameters[name]), value, atol=1e-8)
    y = plain.sensing.measure(scene((9, 11)))
    np.testing.assert_allclose(other.reconstruct(y, (9, 11)), plain.reconstruct(y, (9, 11)), atol=1e-8)


def test_crops_consist_of_whole_blocks(images):
    assert PictureSensing(images).crop_of(sensed((16, 16))) == 128
    assert PictureSensing(images).crop_of(sensed((33, 33))) == 132
    assert PictureSensing(images).crop_of(sensed((6, 4))) == 132
    with pytest.raises(InputError, match="expected a multiple of 12, because a block has 6×4"):
        task(images, 20).crop_of(sensed((6, 4)))


def test_what_does_not_fit_is_refused_before_it_trains(images, tmp_path):
    model = untrained()
    with pytest.raises(InputError, match="expected one of conv-csc"):
        PictureReconstructor.new(sensed(), net="conv-alista")
    with pytest.raises(InputError, match="give task=PictureSensing"):
        train(model)
    with pytest.raises(InputError, match="not trained for the task"):
        train(model, task=Denoising(images))
    with pytest.raises(InputError, match="expected WholePictureRecipe"):
        train(model, PictureFastRecipe(), task=task(images))
    with pytest.raises(InputError, match="no train picture"):
        train(model, task=PictureSensing(images))
    with pytest.raises(InputError, match="at least 7, the size of the filters"):
        train(model, QUICK, task=task(images, 4))
    with pytest.raises(InputError, match="has 30×3 pixels, and its blocks together 32×4"):
        model.reconstruct(np.zeros((8, 6)), (30, 3))
    with pytest.raises(InputError, match="this problem has no dictionary"):
        cuista.Reconstructor.new(model.sensing)
    with pytest.raises(InputError, match="expected 3×3 = 9"):
        model.reconstruct(np.zeros((8, 6)), (9, 11))
    with pytest.raises(InputError, match="the measurements"):
        model.reconstruct(np.zeros((9, 5)), (9, 11))
    with pytest.raises(InputError, match="measurements"):
        model.reconstruct(np.full((9, 6), np.nan), (9, 11))


def test_a_damaged_file_is_refused(tmp_path):
    record = untrained().to_record()
    record.arrays["weight/W"] = 2 * record.arrays["weight/W"]
    cuista.storage.write(tmp_path / "m.h5", record)
    with pytest.raises(FileError, match="is none of its dictionary"):
        cuista.load(tmp_path / "m.h5")


# -- the command line -------------------------------------------------------------------------------------------------

TRAIN = ("--net", "conv-csc", "--crop", 24, "-T", 2, "--batch", 2, "--validation-batch", 4)
SHORT = (*TRAIN, "--matrix-steps", 20)


@pytest.fixture
def prepared(run, images):
    run("gen-problem", "--task", "cs", "--block", 4, "--m", 6)
    return run


def test_from_pictures_to_a_reconstructed_picture(prepared, images):
    run = prepared
    run("train", "--task", "cs", "images.h5", "--problem", "sensing.h5", *SHORT, "-o", "m.h5")
    assert "Wrote m.h5: validation PSNR" in run.errors
    run("train", "images.h5", "--problem", "sensing.h5", *SHORT, "-o", "m.h5", "--resume")  # the problem names the task
    assert "m.h5 is complete: nothing to resume." in run.errors
    result = json.loads(run("test", "m.h5", "--images", "images.h5", "--json"))
    assert result["mean"]["conv-csc"]["psnr_db"] > result["mean"]["least norm"]["psnr_db"] + 0.5
    assert "PictureReconstructor: Conv-CSC, 2 layers" in run("info", "m.h5")
    colours = np.dstack([scene((30, 41), seed) for seed in range(3)])
    save("in.png", colours)
    run("sense", "m.h5", "in.png", "-o", "y.h5")
    run("reconstruct", "m.h5", "y.h5", "-o", "out.png")
    model, found = cuista.load("m.h5"), np.asarray(Image.open("out.png"))
    for channel in range(3):
        picture = np.rint(255 * colours[..., channel]) / 255
        expected = model.reconstruct(model.sensing.measure(picture), (30, 41))
        np.testing.assert_allclose(found[..., channel], np.clip(255 * expected, 0, 255), atol=0.51)


def test_an_interrupted_command_is_continued(prepared, interrupt, images):
    words = ("train", "--task", "cs", "images.h5", "--problem", "sensing.h5", *SHORT)
    interrupt(*words, "-o", "m.h5", when=lambda at, name: at.title == "everything" and at.step == 5)
    prepared(*words, "-o", "m.h5", "--resume")
    prepared(*words, "-o", "n.h5")
    resumed, whole = cuista.load("m.h5"), cuista.load("n.h5")
    for name, value in whole.network.parameters.items():
        np.testing.assert_array_equal(resumed.network.parameters[name], value)


def test_a_problem_with_principal_components_takes_patches_of_a_block(prepared, images, tmp_path):
    run = prepared
    run("prepare-images", "pictures", "--split", "4,2,0", "--patches", 4, "--per-image", 50, "-o", "patches.h5")
    run("gen-problem", "--task", "cs", "--block", 4, "--m", 6, "--principal", "patches.h5", "-o", "p.h5")
    expected = principal_sensing(cuista.PatchSet("patches.h5", "train"), 6)
    np.testing.assert_allclose(Sensing.load("p.h5").Phi, expected)
    run("train", "--task", "cs", "images.h5", "--problem", "p.h5", *SHORT, "-o", "m.h5")


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ("--ridge 1", 2, "--ridge is for networks that recover one block at a time"),
        ("--learn-sensing", 2, "--learn-sensing is for networks that recover one block"),
        ("--deblock images.h5", 2, "--deblock is for networks that recover one block"),
        ("--coord", 2, "--coord is for networks that recover one block"),
        ("--recipe paper", 2, "this network has no paper recipe: leave --recipe out"),
        ("--better-wait 3", 2, "--better-wait is for the paper recipe, which this network does not have"),
        ("--crop 22", 1, "expected a multiple of 4, because a block has 4×4 (--crop)"),
        (
            "--crop 400",
            1,
            "as large as the crop of 400×400: the largest has 40 pixels on its shorter side; give a crop",
        ),
        ("--crop 4", 1, "expected at least 7, the size of the filters (--crop)"),
    ],
)
def test_mistakes_are_said_in_one_line(prepared, words, status, text, tmp_path):
    prepared("train", "--task", "cs", "images.h5", "--problem", "sensing.h5", *TRAIN, *words.split(), fails=status)
    assert text in prepared.errors, prepared.errors
    assert not (tmp_path / "model.h5").exists()


def test_patches_and_pictures_are_not_mixed_up(prepared, images):
    run = prepared
    run("prepare-images", "pictures", "--split", "4,2,0", "--patches", 4, "--per-image", 50, "-o", "patches.h5")
    run("train", "--task", "cs", "patches.h5", "--problem", "sensing.h5", *TRAIN, fails=1)
    assert "patches.h5 has patches, on which conv-csc is not trained: prepare pictures (--net)" in run.errors
    run("train", "--task", "cs", "images.h5", "--problem", "sensing.h5", fails=1)
    assert "prepare patches with --patches, or train conv-csc (--net)" in run.errors
    run("train", "--task", "cs", "patches.h5", "--problem", "sensing.h5", fails=1)
    assert "this problem has no dictionary" in run.errors


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--block 0", "'0' is not the size of a block; expected a value like 16 or 16x8"),
        ("--block 1", "of 2 pixels or more"),
        ("--block 8x", "'8x' is not the size of a block"),
    ],
)
def test_sizes_of_blocks_are_checked(run, words, text):
    run("gen-problem", "--task", "cs", *words.split(), fails=2)
    assert text in run.errors


def test_measurements_fit_every_model_for_the_same_matrix(prepared, images):
    run = prepared
    np.save("atoms.npy", np.random.default_rng(0).standard_normal((16, 24)))
    run("gen-problem", "--task", "cs", "--dict", "atoms.npy", "--m", 6, "-o", "with-atoms.h5")
    run("train", "--task", "cs", "images.h5", "--problem", "sensing.h5", *SHORT, "-o", "m.h5")
    save("in.png", scene((30, 41)))
    run("sense", "with-atoms.h5", "in.png", "-o", "y.h5")
    run("reconstruct", "m.h5", "y.h5", "-o", "out.png")
    run("gen-problem", "--task", "cs", "--block", 4, "--m", 6, "--seed", 1, "-o", "other.h5")
    run("sense", "other.h5", "in.png", "-o", "z.h5")
    run("reconstruct", "m.h5", "z.h5", "-o", "no.png", fails=1)
    assert "was measured with another Φ" in run.errors


def test_the_learning_rate_is_that_of_everything(images):
    slow, fast = (train(untrained(), replace(QUICK, learning_rate=rate), task=task(images)) for rate in (1e-4, 1e-2))
    moved = [
        np.abs(model.network.parameters["synthesis"] - np.tile(model.network.operator.D, (2, 1, 1, 1))).max()
        for model in (slow, fast)
    ]
    assert moved[0] < 0.05 * moved[1]
