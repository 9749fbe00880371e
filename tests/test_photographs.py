"""Denoising pictures as they come: folders, colours, noise that is not told, and the noise of cameras."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.stats import poisson
from test_pictures import save, scene, small_denoiser

import cuista
from cuista import storage
from cuista.data.camera import CameraNoise
from cuista.data.dictionary import Dictionary, random_dictionary
from cuista.metrics import psnr_db
from cuista.tasks.denoising import Denoiser, evaluate_denoisers
from cuista.tasks.photographs import OPPONENT, denoise_picture


@pytest.fixture
def photos(run, tmp_path):
    """A folder with pictures of several kinds, two of them in a sub-folder, and a trained model beside it."""
    denoiser = small_denoiser()
    denoiser.training["steps"] = 1
    denoiser.save("model.h5")
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    save(folder / "grey.png", scene())
    save(folder / "trip" / "colour.jpg", np.dstack([scene(seed=seed) for seed in range(3)]))
    stack = np.uint16(60000 * np.stack([scene(seed=seed) for seed in range(3)]))
    tifffile.imwrite(folder / "trip" / "stack.tif", stack, photometric="minisblack")
    return folder


def written(folder="out"):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


# -- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_keeps_its_names_sub_folders_pages_and_depths(run, photos):
    (photos / "notes.txt").write_text("not a picture")
    run("denoise", "model.h5", photos, "-o", "out")
    assert written() == ["grey.png", "trip/colour.jpg", "trip/stack.tif"]
    assert "1 file without a picture's ending is left out" in run.errors
    assert "notes.txt" in run.errors
    assert "Wrote 3 files to out." in run.errors
    pages = tifffile.imread("out/trip/stack.tif")
    assert (pages.shape, pages.dtype) == ((3, 64, 80), np.uint16)
    run("denoise", "model.h5", photos / "trip" / "stack.tif", "-o", "single.tif")
    np.testing.assert_array_equal(tifffile.imread("single.tif"), pages)


def test_several_files_go_to_a_folder_and_a_gif_becomes_png(run, photos):
    Image.fromarray(np.uint8(255 * scene())).save("moving.gif")
    run("denoise", "model.h5", "moving.gif", photos / "grey.png", "-o", "out/deep")
    assert written() == ["deep/grey.png", "deep/moving.png"]
    shutil.copy(photos / "grey.png", "grey.png")
    run("denoise", "model.h5", "grey.png", photos / "grey.png", "-o", "other", fails=1)
    assert "would both be written to other/grey.png" in run.errors
    assert not Path("other").exists()


def test_a_bad_picture_is_named_and_the_others_go_on(run, photos):
    (photos / "bad.png").write_bytes((photos / "grey.png").read_bytes()[:200])
    save(photos / "tiny.png", np.zeros((2, 2)))
    run("denoise", "model.h5", photos, "-o", "out", fails=1)
    assert written() == ["grey.png", "trip/colour.jpg", "trip/stack.tif"]
    lines = run.errors.splitlines()
    assert sum("bad.png" in line for line in lines[:-1]) == 1
    assert any(line.startswith("Error") and "tiny.png" in line for line in lines[:-1])
    assert lines[-1].startswith("Error: 2 of 5 files could not be denoised: ")


def test_outputs_are_kept_unless_they_are_to_be_replaced(run, photos, monkeypatch):
    run("denoise", "model.h5", photos, "-o", "out")
    Path("out/grey.png").write_bytes(b"mine")
    Path("out/trip/stack.tif").unlink()
    run("denoise", "model.h5", photos, "-o", "out", fails=1)
    assert "out/grey.png, out/trip/colour.jpg exist already" in run.errors
    assert "--resume, --force" in run.errors
    run("denoise", "model.h5", photos, "-o", "out", "--resume")
    assert "2 of 3 pictures" in run.errors
    assert Path("out/grey.png").read_bytes() == b"mine"
    assert Path("out/trip/stack.tif").exists()
    run("denoise", "model.h5", photos, "-o", "out", "--force")
    assert len(Path("out/grey.png").read_bytes()) > 4
    run("denoise", "model.h5", photos, "-o", photos, "--force", fails=1)
    assert "would replace the pictures" in run.errors
    # A folder within that of the pictures is none of them.
    run("denoise", "model.h5", photos, "-o", photos / "clean")
    run("denoise", "model.h5", photos, "-o", photos / "clean", "--force")
    assert not (photos / "clean" / "clean").exists()


def test_an_interrupted_folder_says_how_to_go_on(run, photos, monkeypatch):
    denoise = Denoiser.denoise

    def interrupted(denoiser, *arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr(Denoiser, "denoise", denoise)
        return denoise(denoiser, *arguments, **options)

    monkeypatch.setattr(Denoiser, "denoise", interrupted)
    run("denoise", "model.h5", photos, "-o", "out", "--sigma", 20, fails=130)
    assert "1 of 3 pictures are done; --resume does the others." in run.errors
    assert written() == ["grey.png"]
    run("denoise", "model.h5", photos, "-o", "out", "--resume")
    assert written() == ["grey.png", "trip/colour.jpg", "trip/stack.tif"]


def test_mistakes_about_folders_are_said_before_any_work(run, photos, monkeypatch):
    monkeypatch.setattr(Denoiser, "denoise", None)
    Path("file").write_text("")
    Path("empty").mkdir()
    for words, status, said in (
        ((photos, "-o", "file"), 1, "file is a file; expected a folder for 3 pictures"),
        ((photos, "-o", "out", "--compare", "c.png"), 2, "--compare is for a single picture"),
        ((photos, "-o", "out", "--resume", "--force"), 2, "give one of them"),
        ((photos / "grey.png", "-o", "g.png", "--resume"), 2, "--resume is for folders"),
        (("empty", "-o", "out"), 1, "empty is empty"),
    ):
        run("denoise", "model.h5", *words, fails=status)
        assert said in run.errors


# -- colours, and noise of any level ----------------------------------------------------------------------------------


def noisy(clean, sigma, seed=0):
    return clean + sigma / 255 * np.random.default_rng(seed).standard_normal(clean.shape)


def test_noise_is_estimated_and_the_picture_is_scaled_to_the_level_of_training(run, photos):
    clean = scene((128, 160))
    tifffile.imwrite("noisy.tif", np.float32(noisy(clean, 20) / 2 + 0.25))  # with noise of σ = 10
    run("denoise", "model.h5", "noisy.tif", "-o", "estimated.tif")
    said = re.search(r"noise of σ = (\S+) \(estimated\); model.h5 was trained for σ = 20", run.errors)
    assert float(said[1]) == pytest.approx(10, rel=0.1)
    run("denoise", "model.h5", "noisy.tif", "-o", "given.tif", "--sigma", said[1])
    estimated, given = tifffile.imread("estimated.tif"), tifffile.imread("given.tif")
    np.testing.assert_allclose(estimated, given, atol=1e-3)
    whole = denoise_picture(Denoiser.load("model.h5"), noisy(clean, 20)[None], sigma=20.0).channels[0]
    run("denoise", "model.h5", "noisy.tif", "-o", "half.tif", "--sigma", 10)
    np.testing.assert_allclose(tifffile.imread("half.tif"), whole / 2 + 0.25, atol=1e-5)
    run("denoise", "model.h5", photos, "-o", "out")
    assert re.search(r"grey.png: noise of σ = \S+ \(estimated\)", run.errors)
    assert "pictures with other noise are scaled to it" in run.errors
    run("denoise", "model.h5", photos, "-o", "again", "--sigma", 20)
    assert "trained for" not in run.errors


def test_a_picture_without_noise_is_left_as_it_is(run, photos):
    tifffile.imwrite("flat.tif", np.float32(np.kron(scene((16, 20)), np.ones((8, 8)))))
    run("denoise", "model.h5", "flat.tif", "-o", "out.tif")
    np.testing.assert_array_equal(tifffile.imread("out.tif"), tifffile.imread("flat.tif"))


def test_hardly_more_is_taken_away_than_noise_could_be():
    """The network here, of two layers and few filters, cannot represent the picture."""
    denoiser, clean = small_denoiser(), scene((128, 160))
    for sigma in (0.5, 2.0):
        picture = noisy(clean, sigma)
        scale = denoiser.sigma / sigma
        alone = denoiser.denoise(scale * picture) / scale
        found = denoise_picture(denoiser, picture[None], sigma=sigma).channels[0]
        assert psnr_db(found, clean) > psnr_db(picture, clean) - 1 > psnr_db(alone, clean) + 3


def test_colours_are_denoised_together_with_the_noise_of_each_unchanged():
    np.testing.assert_allclose(OPPONENT @ OPPONENT.T, np.eye(3), atol=1e-15)
    denoiser, grey = small_denoiser(), scene((128, 160))
    clean = np.stack([grey, 0.8 * grey, 1 - grey])
    channels = noisy(clean, 20)
    found = denoise_picture(denoiser, channels, sigma=20.0)
    alone = np.stack([denoise_picture(denoiser, channel[None], sigma=20.0).channels[0] for channel in channels])
    assert psnr_db(found.channels, clean) > psnr_db(alone, clean)
    np.testing.assert_array_equal(denoise_picture(denoiser, channels, sigma=20.0, colour=False).channels, alone)
    assert denoise_picture(denoiser, channels).sigmas == pytest.approx((20, 20, 20), rel=0.1)
    # Further channels are no colours, and grey that is stored as colour stays grey.
    more = denoise_picture(denoiser, np.concatenate([channels, channels[:1]]), sigma=20.0, colour=True).channels
    np.testing.assert_array_equal(more, np.concatenate([found.channels, alone[:1]]))
    same = denoise_picture(denoiser, np.repeat(channels[:1], 3, axis=0), sigma=20.0).channels
    np.testing.assert_array_equal(same, np.repeat(alone[:1], 3, axis=0))


def test_a_map_gives_each_pixel_the_result_for_its_level(run, photos):
    denoiser, picture = small_denoiser(), noisy(scene(), 20)
    level = np.full(picture.shape, 10.0)
    level[:, 40:] = 40.0
    level[:8] = 0.0
    found = denoise_picture(denoiser, picture[None], sigma=level).channels[0]
    for sigma, where in ((10.0, np.s_[8:, :40]), (40.0, np.s_[8:, 40:])):
        of_one_level = denoise_picture(denoiser, picture[None], sigma=sigma).channels[0]
        np.testing.assert_allclose(found[where], of_one_level[where], atol=1e-6)
    np.testing.assert_array_equal(found[:8], picture[:8])
    even = denoise_picture(denoiser, picture[None], sigma=np.full(picture.shape, 30.0)).channels
    np.testing.assert_allclose(even, denoise_picture(denoiser, picture[None], sigma=30.0).channels, atol=1e-6)
    # The numbers in a file are levels of 255, in an array as in a picture.
    np.save("level.npy", level)
    Image.fromarray(np.uint8(level)).save("level.png")
    for name in ("level.npy", "level.png"):
        run("denoise", "model.h5", photos / "grey.png", "-o", "out.png", "--sigma", name, "--force")
        assert "noise of σ = " in run.errors
        results = [np.asarray(Image.open("out.png"))]
    np.testing.assert_array_equal(results[0], results[-1])
    np.save("level.npy", level[1:])
    run("denoise", "model.h5", photos / "grey.png", "-o", "bad.png", "--sigma", "level.npy", fails=1)
    assert "the map of σ has shape (63, 80), and the picture (64, 80); expected the same (--sigma)" in run.errors


# -- cameras ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read_noise", [0.0, 0.5, 2.0, 10.0])
def test_the_inverse_of_the_anscombe_transform_is_unbiased(read_noise):
    """The mean of the transform is summed over all counts, and over the read noise by quadrature."""
    camera = CameraNoise(4.0, read_noise, 100.0)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    for electrons in (0.0, 0.3, 1.0, 4.0, 20.0, 300.0):
        counts = np.arange(electrons + 12 * np.sqrt(electrons + 1) + 20)
        numbers = (counts[:, None] + read_noise * nodes) / camera.gain + camera.offset
        transformed = camera.stabilised(numbers)
        probability = np.outer(poisson.pmf(counts, electrons), weights / weights.sum())
        mean = (probability * transformed).sum()
        found = camera.gain * (camera.restored(mean) - camera.offset)
        assert found == pytest.approx(electrons, abs=0.05)
        if electrons >= 4:
            assert (probability * (transformed - mean) ** 2).sum() == pytest.approx(1, abs=0.1)


def test_the_noise_of_a_camera_is_removed_in_its_units(run, photos):
    rng, electrons = np.random.default_rng(0), 5 + 2000 * scene((128, 160)) ** 3
    clean, deviation = 100 + electrons / 0.5, np.sqrt(electrons + 9) / 0.5
    camera = 100 + (rng.poisson(electrons) + 3 * rng.standard_normal(electrons.shape)) / 0.5
    tifffile.imwrite("camera.tif", np.uint16(np.rint(camera)))
    run("denoise", "model.h5", "camera.tif", "-o", "with.tif", "--gain", 0.5, "--read-noise", 3, "--offset", 100)
    run("denoise", "model.h5", "camera.tif", "-o", "without.tif")

    def error(name):
        """The root mean square error, as a multiple of the noise of each pixel."""
        return np.sqrt(np.square((tifffile.imread(name) - clean) / deviation).mean())

    assert error("with.tif") < error("without.tif") < error("camera.tif") == pytest.approx(1, abs=0.02)
    # The mean is right even where few electrons arrive.
    few = rng.poisson(np.full((128, 160), 3.0)) / 0.5 + 100
    tifffile.imwrite("few.tif", np.uint16(np.rint(few)))
    run("denoise", "model.h5", "few.tif", "-o", "flat.tif", "--gain", 0.5, "--offset", 100)
    assert tifffile.imread("flat.tif").mean() == pytest.approx(106, abs=0.3)


def test_noise_that_cannot_be_is_refused(run, photos):
    tifffile.imwrite("negative.tif", np.uint16(scene() * 60000), photometric="miniswhite")
    for words, status, said in (
        (("--read-noise", 3), 2, "give its --gain, too"),
        (("--gain", 3, "--sigma", 3), 2, "give one of them"),
        (("--gain", 0), 2, "not a number greater than 0"),
        (("--sigma", "nowhere.npy"), 1, "nowhere.npy"),
        (("--sigma", "-3"), 2, "not a number greater than 0"),
        (("--gain", 1), 1, "0 is white in negative.tif"),
    ):
        run("denoise", "model.h5", "negative.tif", "-o", "bad.tif", *words, fails=status)
        assert said in run.errors
    assert not Path("bad.tif").exists()


# -- comparisons ------------------------------------------------------------------------------------------------------


def test_models_are_tested_beside_non_local_means_and_bm3d_with_and_without_clipping(run, photos, monkeypatch):
    calls = []

    def bm3d(noisy, sigma):
        """The package's function, as far as it matters here: it expects values from 0 to 1."""
        calls.append((noisy.mean(), sigma))
        return noisy

    monkeypatch.setitem(sys.modules, "bm3d", types.SimpleNamespace(bm3d=bm3d))
    run("prepare-images", photos, "--split", "0,0,5")
    words = ("test", "model.h5", "--images", "images.h5", "--sigma", 40, "--baselines")
    table = run(*words, "-o", "report.h5")
    assert "FISTA is left out, because images.h5 has no validation pictures" in run.errors
    for word in ("nl-means dB", "bm3d dB", "bm3d dB clipped", "bm3d SSIM"):
        assert word in " ".join(table.split())
    assert calls[0] == (pytest.approx(0.5, abs=0.02), 40 / 255)
    assert "trained for σ = 20, and is tested with σ = 40: pictures are scaled" in run.errors
    mean = json.loads(run(*words, "--json"))["mean"]
    denoiser = small_denoiser()
    other = evaluate_denoisers({"scaled": denoiser}, "images.h5", sigma=40.0)
    plain = evaluate_denoisers({"as it is": dataclasses.replace(denoiser, sigma=40.0)}, "images.h5")
    assert other.psnr_db[:, 1].mean() > plain.psnr_db[:, 1].mean() + 1
    assert mean["bm3d"] == mean["noisy"]  # this one does nothing
    assert mean["noisy"]["psnr_clipped_db"] > mean["noisy"]["psnr_db"] + 0.1
    assert mean["nl-means"]["psnr_db"] > mean["noisy"]["psnr_db"] + 3
    arrays = storage.read("report.h5").arrays
    assert arrays["psnr_clipped_db"].shape == arrays["psnr_db"].shape == (5, 4)


def test_a_network_for_a_range_of_noise_is_told_the_level_and_scaled_to_beyond_it():
    weight = cuista.solve_conv(Dictionary(random_dictionary((3, 3), 8)))
    denoiser = Denoiser.new(weight, "conv-alista", sigma=(10.0, 30.0), layers=2, per_filter=True)
    denoiser.network.parameters["slope"] += 0.5
    picture = noisy(scene((40, 50)), 20)
    for sigma, level in ((20, 20), (60, 30), (5, 10)):
        scaled = denoiser.denoise(level / sigma * picture, sigma=level) * (sigma / level)
        np.testing.assert_allclose(denoiser.denoise_at(picture, sigma), scaled, atol=1e-6)
    assert denoiser.covers(10)
    assert not denoiser.covers(31)
    assert denoiser.levels == "10 to 30"


def test_a_picture_is_denoised_at_some_places_of_the_grid_or_at_all(run, photos):
    weight = cuista.solve_conv(Dictionary(random_dictionary((4, 4), 12)), stride=2)
    strided = Denoiser.new(weight, "conv-alista", sigma=20.0, layers=2)
    strided.network.parameters = strided.network.published_start()
    strided.training["steps"] = 1
    strided.save("strided.h5")
    picture = noisy(scene((40, 50)), 20)
    np.save("picture.npy", picture)
    tifffile.imwrite("picture.tif", picture.astype(np.float32))
    for count in (1, 3, 4):
        run("denoise", "strided.h5", "picture.tif", "--sigma", 20, "--shifts", count, "-o", f"{count}.tif")
        expected = denoise_picture(strided, picture[None], sigma=20.0, shifts=count).channels[0]
        np.testing.assert_allclose(tifffile.imread(f"{count}.tif"), expected, atol=1e-4)
    run("prepare-images", photos, "--split", "0,0,5")
    psnr = {}
    for words in (("--shifts", 1), ("--shifts", 4), ()):
        result = json.loads(run("test", "strided.h5", "--images", "images.h5", *words, "--json"))
        psnr[words] = result["mean"]["conv-alista"]["psnr_db"]
        assert result.get("shifts") == (words[1] if words else None)
    assert psnr["--shifts", 1] < psnr["--shifts", 4] == psnr[()]
    for words in (
        ("denoise", "strided.h5", "picture.tif", "-o", "out.tif"),
        ("test", "strided.h5", "--images", "images.h5"),
    ):
        run(*words, "--shifts", 5, fails=1)
        assert "shifts is 5; expected a number from 1 to 4, the square of the stride (--shifts)" in run.errors
    assert not Path("out.tif").exists()
