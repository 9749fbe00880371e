"""Denoising pictures as they come: folders, colours, noise that is not told, and the noise of cameras."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from test_pictures import save, scene, small_denoiser

from cuista import storage
from cuista.tasks.denoising import Denoiser


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
    run("denoise", "model.h5", photos, "-o", "out", fails=130)
    assert "1 picture of 3 are done; --resume does the others." in run.errors
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
    mean = json.loads(run(*words, "--json"))["mean"]
    assert mean["bm3d"] == mean["noisy"]  # this one does nothing
    assert mean["noisy"]["psnr_clipped_db"] > mean["noisy"]["psnr_db"] + 0.1
    assert mean["nl-means"]["psnr_db"] > mean["noisy"]["psnr_db"] + 3
    arrays = storage.read("report.h5").arrays
    assert arrays["psnr_clipped_db"].shape == arrays["psnr_db"].shape == (5, 4)
