"""Compressive sensing with a denoiser that was not trained for Φ."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from test_pictures import save

from cuista import parallel
from cuista.data.dictionary import Dictionary, cosine_dictionary
from cuista.data.images import prepare_images
from cuista.data.sensing import Sensing, random_sensing
from cuista.errors import InputError
from cuista.messages import CuistaWarning
from cuista.metrics import psnr_db
from cuista.tasks import plug_and_play
from cuista.tasks.denoising import Denoiser, Denoising, PictureFastRecipe
from cuista.tasks.plug_and_play import PlugAndPlay, turned, turned_back
from cuista.tasks.sensing import evaluate_reconstructors
from cuista.training import train
from cuista.weights import solve_conv


def rectangles(shape, seed=0):
    """A picture of twelve rectangles of random grey values."""
    rng = np.random.default_rng(seed)
    picture = np.full(shape, 0.5)
    for _ in range(12):
        (top, bottom), (left, right) = (np.sort(rng.integers(0, size, 2)) for size in shape)
        picture[top : bottom + 1, left : right + 1] = rng.random()
    return picture


def untrained(layers=3, sigma=25.0, **options):
    dictionary = Dictionary(cosine_dictionary((8, 8), 64))
    weight = solve_conv(dictionary, ridge=1.0, stride=4)
    return Denoiser.new(weight, layers=layers, sigma=sigma, per_filter=True, **options)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with rectangles (images.h5) and a denoiser that was trained on them for a second or two."""
    folder = tmp_path_factory.mktemp("rectangles")
    (folder / "pictures").mkdir()
    for number in range(13):
        save(folder / "pictures" / f"{number}.png", rectangles((64, 64), number + 100))
    prepare_images(folder / "pictures", folder / "images.h5", split=(10, 2, 1))
    model = untrained(layers=5, sigma=(1.0, 40.0))
    recipe = PictureFastRecipe(batch=4, validation_batch=4, max_steps=150, matrix_steps=0)
    train(model, task=Denoising(folder / "images.h5", crop=48), recipe=recipe, out=folder / "denoiser.h5")
    return folder


@pytest.fixture
def denoiser(files):
    return Denoiser.load(files / "denoiser.h5")


def sensed(block=(8, 8), M=20):
    return Sensing(random_sensing(block, M), block)


def test_the_eight_symmetries_differ_and_have_inverses(rng):
    picture = rng.random((5, 7))
    images = [turned(picture, k) for k in range(8)]
    assert len({(image.shape, image.tobytes()) for image in images}) == 8
    for k, image in enumerate(images):
        np.testing.assert_array_equal(turned_back(image, k), picture)
    np.testing.assert_array_equal(turned(picture, 13), images[5])


def test_the_iteration_is_that_of_its_formula():
    sensing, model = sensed(), untrained(dtype=np.float64)
    clean = rectangles((16, 24))
    y = sensing.measure(clean)
    pseudo_inverse = np.linalg.pinv(sensing.Phi)
    x, results, misfits = sensing.picture(sensing.least_norm(y), clean.shape), [], []
    for k, sigma in enumerate(40 * (1.5 / 40) ** (np.arange(3) / 2)):
        flipped = x[::-1] if k == 1 else x[:, ::-1] if k == 2 else x
        d = model.denoise_at(flipped, sigma, shifts=1)
        d = d[::-1] if k == 1 else d[:, ::-1] if k == 2 else d
        missing = sensing.picture((y - sensing.measure(d)) @ pseudo_inverse.T, clean.shape)
        x = d + plug_and_play.RELAXATION * missing
        results.append(d + missing)
        misfits.append(np.linalg.norm(missing))
    with pytest.warns(
        CuistaWarning, match="that of iteration 2 instead of 3: it may be poor. A denoiser for a range of σ"
    ):
        found = PlugAndPlay(model, sensing).reconstruct(y, clean.shape, iterations=3)
    np.testing.assert_allclose(found, results[np.argmin(misfits)], atol=1e-12)
    np.testing.assert_allclose(sensing.measure(found), y, atol=1e-12)


@pytest.mark.parametrize("means", [True, False])
def test_a_denoiser_gains_much_over_the_least_norm_solution(denoiser, rng, means):
    Phi = random_sensing((8, 8), 24) if means else rng.standard_normal((24, 64))
    sensing, clean = Sensing(Phi, (8, 8)), rectangles((45, 61))
    y, whole = sensing.measure(clean), sensing.picture(sensing.blocks(clean), (48, 64))
    found = PlugAndPlay(denoiser, sensing).reconstruct(y, (48, 64))
    np.testing.assert_allclose(sensing.measure(found), y, atol=1e-9)
    least_norm = sensing.picture(sensing.least_norm(y), (48, 64))
    assert psnr_db(found, whole) > psnr_db(least_norm, whole) + 7
    np.testing.assert_array_equal(PlugAndPlay(denoiser, sensing).reconstruct(y, clean.shape), found[:45, :61])


def test_a_denoiser_that_amplifies_is_stopped_in_time_and_named(denoiser, monkeypatch):
    """Here, it doubles what it should remove when little noise is left."""
    sensing, clean = sensed(M=24), rectangles((48, 64))
    y, right = sensing.measure(clean), denoiser.denoise_at

    def amplify(noisy, sigma, **options):
        found = right(noisy, sigma, **options)
        return found if sigma > 8 else noisy + 2 * (noisy - found)

    good = PlugAndPlay(denoiser, sensing).reconstruct(y, clean.shape)
    monkeypatch.setattr(denoiser, "denoise_at", amplify)
    with pytest.warns(CuistaWarning, match="instead of 40: it may be poor$"):
        found = PlugAndPlay(denoiser, sensing).reconstruct(y, clean.shape)
    assert psnr_db(good, clean) - 4 < psnr_db(found, clean)


def test_a_denoiser_that_explodes_ends_the_iteration(denoiser, monkeypatch):
    sensing, clean = sensed(M=24), rectangles((48, 64))
    y, right, calls = sensing.measure(clean), denoiser.denoise_at, []

    def explode(noisy, sigma, **options):
        calls.append(sigma)
        return right(noisy, sigma, **options) * (1 if sigma > 20 else 1e6)

    monkeypatch.setattr(denoiser, "denoise_at", explode)
    channels = np.stack([y, y])
    with pytest.warns(CuistaWarning, match="of iteration 9 for channel 1 of 2, iteration 9 for channel 2 of 2 instead"):
        found = PlugAndPlay(denoiser, sensing).reconstruct(channels, clean.shape)
    assert len(calls) == 2 * 10
    np.testing.assert_allclose(sensing.measure(found[1]), y, atol=1e-9)


@pytest.mark.parametrize("kind", ["invertible", "positive"])
def test_the_result_agrees_with_any_measurements(denoiser, rng, kind):
    Phi = rng.standard_normal((64, 64)) if kind == "invertible" else np.vstack([np.ones(64), rng.random((20, 64))])
    sensing, clean = Sensing(Phi, (8, 8)), rectangles((16, 24))
    y = sensing.measure(clean)
    found = PlugAndPlay(denoiser, sensing).reconstruct(y, clean.shape)
    np.testing.assert_allclose(sensing.measure(found), y, atol=1e-8)
    np.testing.assert_allclose(sensing.measure(sensing.picture(sensing.least_norm(y), clean.shape)), y, atol=1e-8)
    if kind == "invertible":
        np.testing.assert_allclose(found, clean, atol=1e-8)


def test_channels_are_recovered_one_by_one_with_progress(denoiser):
    sensing = sensed()
    y = np.stack([sensing.measure(rectangles((16, 24), seed)) for seed in range(3)])
    shown = []
    method = PlugAndPlay(denoiser, sensing)
    found = method.reconstruct(y, (16, 24), iterations=2, progress=lambda *at: shown.append(at))
    assert shown[0] == (pytest.approx(1 / 6), "channel 1 of 3")
    assert shown[-1] == (1.0, "channel 3 of 3")
    for channel, picture in zip(y, found, strict=True):
        np.testing.assert_array_equal(method.reconstruct(channel, (16, 24), iterations=2), picture)


def test_any_number_of_workers_gives_the_same_bits(denoiser):
    sensing, pictures = sensed(), []
    y = sensing.measure(rectangles((64, 64)))
    for workers in (1, 2):
        with parallel.workers(workers):
            pictures.append(PlugAndPlay(denoiser, sensing).reconstruct(y, (64, 64), iterations=3))
    np.testing.assert_array_equal(*pictures)


def test_the_cuda_engine_recovers_the_same(cuda, files):
    y = sensed().measure(rectangles((16, 24)))
    plain, other = (
        PlugAndPlay(Denoiser.load(files / "denoiser.h5", ops=ops, dtype=np.float64), sensed()) for ops in (None, cuda)
    )
    found = other.reconstruct(y, (16, 24), iterations=2)
    np.testing.assert_allclose(found, plain.reconstruct(y, (16, 24), iterations=2), atol=1e-9)


def test_wrong_measurements_are_refused(denoiser):
    method = PlugAndPlay(denoiser, sensed())
    for y, shape, message in (
        (np.ones((6, 19)), (16, 24), "expected"),
        (np.ones((5, 20)), (16, 24), "measurements of 5 blocks; expected 2×3 = 6"),
        (np.full((6, 20), np.nan), (16, 24), "is nan; expected finite numbers"),
        (np.ones((0, 6, 20)), (16, 24), "expected at least one channel"),
        (np.ones((6, 20)), (-16, -24), "expected positive numbers"),
    ):
        with pytest.raises(InputError, match=message):
            method.reconstruct(y, shape)
    small = Sensing(random_sensing((3, 3), 4), (3, 3))
    with pytest.raises(InputError, match="5×7 pixels, and its blocks together 6×9; Conv-ALISTA needs at least the 8×8"):
        PlugAndPlay(denoiser, small).reconstruct(np.ones((6, 4)), (5, 7))
    with pytest.raises(InputError, match="0 iterations; expected 1 or more"):
        method.reconstruct(np.ones((6, 20)), (16, 24), iterations=0)


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def prepared(run, files):
    """The denoiser, the pictures, and a problem, in the current folder."""
    for name in ("denoiser.h5", "images.h5"):
        shutil.copy(files / name, name)
    run("gen-problem", "--task", "cs", "--block", 8, "--m", 24, "-o", "sensing.h5")
    return run


def test_a_picture_is_reconstructed_by_a_denoiser_and_the_file_of_its_matrix(prepared):
    run = prepared
    save("in.png", np.dstack([rectangles((30, 41), seed) for seed in range(3)]))
    run("sense", "sensing.h5", "in.png", "-o", "y.h5")
    run("reconstruct", "denoiser.h5", "y.h5", "--problem", "sensing.h5", "-o", "out.png")
    clean, found = (np.asarray(Image.open(name), float) / 255 for name in ("in.png", "out.png"))
    assert psnr_db(found, clean) > 20
    run("reconstruct", "denoiser.h5", "y.h5", "-o", "no.png", fails=2)
    assert "denoiser.h5 is a denoiser, which does not know Φ: give --problem" in run.errors
    run("gen-problem", "--task", "cs", "--block", 8, "--m", 24, "--seed", 1, "-o", "other.h5")
    run("reconstruct", "denoiser.h5", "y.h5", "--problem", "other.h5", "-o", "no.png", fails=1)
    assert "y.h5 was measured with another Φ: give the model or the problem with which it was measured" in run.errors
    np.save("y.npy", Sensing.load("sensing.h5").measure(clean[..., 0]))
    run("reconstruct", "denoiser.h5", "y.npy", "--shape", "30x41", "--problem", "sensing.h5", "-o", "grey.png")
    np.testing.assert_allclose(np.asarray(Image.open("grey.png")) / 255, found[..., 0], atol=1.01 / 255)


def test_denoisers_are_tested_beside_networks_for_compressive_sensing(prepared, denoiser):
    run = prepared
    few = ("--net", "conv-csc", "--crop", 24, "-T", 2, "--batch", 2, "--validation-batch", 4, "--matrix-steps", 5)
    run("train", "--task", "cs", "images.h5", "--problem", "sensing.h5", *few, "-o", "m.h5")
    by_problem = json.loads(run("test", "denoiser.h5", "--images", "images.h5", "--problem", "sensing.h5", "--json"))
    by_model = json.loads(run("test", "m.h5", "denoiser.h5", "--images", "images.h5", "--json"))
    alone = by_problem["mean"]["conv-alista"]["psnr_db"]
    assert by_model["mean"]["denoiser"]["psnr_db"] == alone > by_problem["mean"]["least norm"]["psnr_db"] + 3
    sensing = Sensing.load("sensing.h5")
    report = evaluate_reconstructors({"mine": PlugAndPlay(denoiser, sensing)}, "images.h5")
    assert report.psnr_db[:, -1].mean() == pytest.approx(alone)
    run("test", "--task", "cs", "denoiser.h5", "--images", "images.h5", fails=1)
    assert "denoisers do not know Φ: name a file of cuista gen-problem --task cs (--problem)" in run.errors
    save("in.png", rectangles((30, 41)))
    run("sense", "sensing.h5", "in.png", "-o", "y.h5")
    run("test", "m.h5", "--images", "images.h5", "--problem", "sensing.h5", fails=2)
    assert "--problem is for denoisers: these models contain their Φ" in run.errors
    run("test", "m.h5", "m.h5", "--images", "images.h5", fails=2)
    assert "a model is named twice" in run.errors
    untrained().save("one.h5")
    run("test", "one.h5", "--images", "images.h5", "--problem", "sensing.h5")
    assert "Note: one.h5 was trained for σ = 25; one for a range from about 1 is usually better here" in run.errors
    run("reconstruct", "m.h5", "y.h5", "--problem", "sensing.h5", "-o", "no.png", fails=2)
    assert "--problem is for a denoiser: m.h5 contains its Φ" in run.errors
