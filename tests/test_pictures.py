"""Pictures, files of pictures, and denoisers trained on them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path

import h5py
import numpy as np
import png
import pytest
import tifffile
from PIL import Image
from skimage.metrics import structural_similarity

from cuista import storage
from cuista.counter import TRAINING, VALIDATION, Key
from cuista.data.dictionary import Dictionary, cosine_dictionary, random_dictionary, rotate
from cuista.data.form import Form
from cuista.data.images import ImageSet, prepare_images
from cuista.data.pictures import Picture, read_picture, write_picture
from cuista.data.tiff import upright
from cuista.errors import FileError, InputError, MissingLibraryError
from cuista.metrics import psnr_db, ssim
from cuista.ops import CpuOps
from cuista.ops.borders import map_shape
from cuista.tasks.denoising import Denoiser, Denoising, evaluate_denoisers, tuning_pairs
from cuista.tasks.photographs import denoise_picture
from cuista.training import FastRecipe, LearningRecipe, learn_dictionary, train
from cuista.weights import ConvWeight, solve_conv

QUICK = Denoising.recipes["fast"](max_steps=30, matrix_steps=20, batch=2, validation_batch=4, learning_rate=0.03)


def scene(size=(64, 80), seed=0):
    """A picture of edges and slopes with values from 0 to 1."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(size) / max(size)
    picture = 0.3 * rows
    for _ in range(6):
        a, b, c = rng.standard_normal(3)
        picture = picture + 0.15 * (a * rows + b * columns > 0.5 * c)
    return np.clip(picture, 0, 1)


def save(path, picture, **options):
    Image.fromarray(np.rint(255 * picture).astype(np.uint8)).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """A folder with ten pictures, half of them in a subfolder."""
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    for number in range(10):
        save(tmp_path / "pictures" / ("more" if number % 2 else "") / f"{number}.png", scene(seed=number))
    return tmp_path / "pictures"


@pytest.fixture
def images(folder, tmp_path):
    prepare_images(folder, tmp_path / "images.h5", split=(6, 2, 2))
    return tmp_path / "images.h5"


def small_denoiser(net="conv-alista", **options):
    stride = 2 if net == "conv-csc" else 1
    filters = (cosine_dictionary if stride > 1 else random_dictionary)((3, 3), 12)
    return Denoiser.new(solve_conv(Dictionary(filters), stride=stride), net, layers=2, **options)


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_every_usual_kind_of_picture_is_read_right(tmp_path):
    rng = np.random.default_rng(0)
    rgb, alpha = rng.integers(0, 256, (7, 9, 3), np.uint8), rng.integers(0, 256, (7, 9), np.uint8)
    deep = rng.integers(0, 65536, (7, 9), np.uint16)
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    Image.fromarray(np.dstack([rgb, alpha])).save(tmp_path / "rgba.png")
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    indexed = Image.fromarray(rgb).quantize(8)
    indexed.save(tmp_path / "indexed.png")
    indexed.save(tmp_path / "clear.png", transparency=0)
    Image.fromarray(rgb[..., 0] > 128).save(tmp_path / "bits.png")
    turned = Image.fromarray(rgb)
    exif = turned.getexif()
    exif[0x0112] = 6  # a viewer should turn the picture by 90°
    turned.save(tmp_path / "turned.png", exif=exif)

    picture = read_picture(tmp_path / "rgb.png")
    np.testing.assert_allclose(picture.channels, np.moveaxis(rgb, 2, 0) / 255)
    assert (picture.depth, picture.alpha) == (8, None)
    np.testing.assert_allclose(picture.grey(), rgb @ [0.299, 0.587, 0.114] / 255)
    picture = read_picture(tmp_path / "rgba.png")
    np.testing.assert_allclose(picture.alpha, alpha / 255)
    share = alpha / 255
    np.testing.assert_allclose(picture.grey(), share * (rgb @ [0.299, 0.587, 0.114] / 255) + 1 - share)
    for name in ("deep.png", "deep.tif"):
        picture = read_picture(tmp_path / name)
        np.testing.assert_allclose(picture.channels, deep[None] / 65535)
        assert picture.depth == 16
    np.testing.assert_allclose(
        read_picture(tmp_path / "indexed.png").channels, np.moveaxis(np.asarray(indexed.convert("RGB")), 2, 0) / 255
    )
    clear = read_picture(tmp_path / "clear.png")
    np.testing.assert_array_equal(clear.alpha, np.asarray(indexed) != 0)
    assert set(np.unique(read_picture(tmp_path / "bits.png").channels)) == {0, 1}
    assert read_picture(tmp_path / "turned.png").channels.shape == (3, 9, 7)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_is_turned_upright_whatever_its_pixels_and_compression(tmp_path, orientation):
    for channels, depth in ((1, np.uint8), (3, np.uint8), (1, np.uint16), (1, np.float32)):
        pixels = np.arange(6 * 9 * channels).astype(depth).reshape(6, 9, channels).squeeze()
        for compression in (None, "zlib"):
            path = tmp_path / "turned.tif"
            kind = "rgb" if channels == 3 else "minisblack"
            tags = [(274, "H", 1, orientation, True)]
            tifffile.imwrite(path, pixels, photometric=kind, compression=compression, extratags=tags)
            found = read_picture(path, white=1.0 if depth == np.float32 else None).channels
            expected = upright(np.moveaxis(np.atleast_3d(pixels), 2, 0), orientation)
            scale = 1 if depth == np.float32 else np.iinfo(depth).max
            np.testing.assert_allclose(found, expected / scale, rtol=1e-6)


def test_orientations_are_those_of_tiff():
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    for orientation, place in corner.items():  # where the first row and the first column of the file meet
        marked = np.zeros((1, 2, 3))
        marked[0, 0, 0], marked[0, 0, 1] = 1, 2
        found = upright(marked, orientation)[0]
        assert found[place] == 1
        along_row = found[place[0], 1 if place[1] == 0 else -2]
        assert (along_row == 2) == (orientation <= 4)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transparent", [False, True])
def test_a_picture_comes_back_as_it_was_written(tmp_path, depth, channels, transparent, rng):
    values = rng.integers(0, 2**depth, (channels + 1, 7, 9)) / (2**depth - 1)
    picture = Picture(values[:-1], Form(depth), values[-1] if transparent else None)
    write_picture(tmp_path / "p.png", picture)
    again = read_picture(tmp_path / "p.png")
    np.testing.assert_allclose(again.channels, picture.channels, atol=1e-12)
    assert again.depth == depth
    assert (again.alpha is None) == (not transparent)
    if transparent:
        np.testing.assert_allclose(again.alpha, values[-1], atol=1e-12)
    with pytest.raises(FileError, match="exists already"):
        write_picture(tmp_path / "p.png", picture)


def test_values_beyond_black_and_white_are_clipped(tmp_path):
    write_picture(tmp_path / "p.png", Picture(np.array([[[-0.5, 0.5, 1.5]]])))
    assert np.asarray(Image.open(tmp_path / "p.png")).tolist() == [[0, 128, 255]]


def test_what_is_no_picture_is_said(tmp_path, monkeypatch):
    (tmp_path / "text.png").write_text("not a picture")
    save(tmp_path / "whole.png", scene())
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    cases = {"text.png": "not a picture", "cut.png": "damaged", "none.png": "not exist"}
    for name, said in cases.items():
        with pytest.raises(FileError, match=said):
            read_picture(tmp_path / name)
    deep_rgb = np.zeros((4, 4, 3), np.uint16)
    with open(tmp_path / "deep.png", "wb") as file:
        png.Writer(4, 4, greyscale=False, bitdepth=16).write(file, deep_rgb.reshape(4, -1).tolist())
    data = (tmp_path / "deep.png").read_bytes()
    (tmp_path / "deep.png").write_bytes(data[:-30])
    with pytest.raises(FileError, match="damaged"):
        read_picture(tmp_path / "deep.png")
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingLibraryError, match=r"cuista\[images\]"):
        read_picture(tmp_path / "whole.png")


def test_what_a_format_cannot_hold_is_said_with_one_that_can(tmp_path):
    grey, colour, clear = np.ones((1, 3, 3)), np.ones((3, 3, 3)), np.ones((3, 3))
    for ending, picture, said in (
        ("xyz", Picture(grey), r"\.png, \.tif"),
        ("gif", Picture(grey), r"GIF has 256 colours only.*\.png"),
        (
            "jpg",
            Picture(grey, Form(16)),
            r"grey, of 16 bits, which can be written as PNG or TIFF only.* in \.png or \.tif$",
        ),
        (
            "bmp",
            Picture(grey, Form(12), clear),
            r"grey with transparency, of 12 bits, which can be .* PNG or TIFF only",
        ),
        (
            "png",
            Picture(grey, Form(32, "float")),
            r"of floating-point numbers of 32 bits, which .* TIFF only.* in \.tif$",
        ),
        ("png", Picture(grey, Form(16, "signed")), "of signed numbers of 16 bits, which can be written as TIFF only"),
        ("png", Picture(np.ones((5, 3, 3))), "of 5 channels, of numbers of 8 bits, which can be written as TIFF only"),
        ("bmp", Picture(colour, Form(), clear), "transparency, which BMP does not support"),
        ("webp", Picture(np.ones((1, 1, 16384))), "at most 16383 pixels"),
    ):
        with pytest.raises(FileError, match=said):
            write_picture(tmp_path / f"p.{ending}", picture)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [ValueError("encoding\nerror 5"), OSError("encoder error -2"), KeyError("mode")])
def test_what_pillow_refuses_to_write_is_said_in_one_line(tmp_path, monkeypatch, error):
    def refuse(self, *arguments, **options):
        raise error

    monkeypatch.setattr(Image.Image, "save", refuse)
    with pytest.raises(FileError, match=r"^cannot write \S+ as WebP: .*$") as said:
        write_picture(tmp_path / "p.webp", Picture(np.ones((1, 3, 3))))
    assert "\n" not in str(said.value)
    assert not list(tmp_path.iterdir())


def test_a_picture_may_be_larger_than_pillow_thinks_safe(tmp_path, monkeypatch):
    save(tmp_path / "large.png", scene())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_picture(tmp_path / "large.png").channels.shape == (1, 64, 80)  # a warning would fail here
    assert Image.MAX_IMAGE_PIXELS == 10


def test_the_transparent_value_of_deep_grey_is_kept(tmp_path):
    deep = np.array([[7, 300], [300, 65535]], np.uint16)
    with open(tmp_path / "deep.png", "wb") as file:
        png.Writer(2, 2, greyscale=True, bitdepth=16, transparent=300).write(file, deep.tolist())
    picture = read_picture(tmp_path / "deep.png")
    np.testing.assert_array_equal(picture.alpha, deep != 300)
    np.testing.assert_allclose(picture.channels, deep[None] / 65535)


# -- sets -------------------------------------------------------------------------------------------------------------


def test_a_folder_is_shuffled_and_dealt_out(folder, tmp_path):
    first = prepare_images(folder, tmp_path / "a.h5", split=(6, 2, 2))
    assert (first.counts, first.skipped) == ({"train": 6, "validation": 2, "test": 2}, [])
    prepare_images(folder, tmp_path / "b.h5", split=(6, 2, 2))
    assert (
        prepare_images(folder, tmp_path / "c.h5", split=(600, 200, 200)).counts == first.counts
    )  # with few pictures, the numbers are a ratio
    other = prepare_images(folder, tmp_path / "e.h5", seed=1)
    assert other.counts == {"train": 8, "validation": 1, "test": 1}
    names = {}
    for file in "abe":
        sets = [ImageSet(tmp_path / f"{file}.h5", split) for split in ("train", "validation", "test")]
        names[file] = [name for one in sets for name, _ in one.pictures()]
        assert len(set(names[file])) == 10
    assert names["a"] == names["b"] != names["e"]
    assert "more/1.png" in names["a"]
    for name, pixels in ImageSet(tmp_path / "a.h5", "test").pictures():
        np.testing.assert_allclose(pixels, read_picture(folder / name).grey())


def test_no_more_pictures_are_read_than_are_dealt_out(folder, tmp_path):
    seen = []
    (folder / "4.png").write_text("no picture")
    prepared = prepare_images(folder, tmp_path / "few.h5", split=(3, 1, 1), progress=lambda *now: seen.append(now))
    assert prepared.counts == {"train": 3, "validation": 1, "test": 1}
    assert len(seen) == 5 + len(prepared.skipped)
    assert {most for _, most, _ in seen} == {5}
    prepare_images(folder, tmp_path / "all.h5")
    names = {}
    for file in ("few", "all"):
        sets = [ImageSet(tmp_path / f"{file}.h5", split) for split in ("train", "validation", "test")]
        names[file] = [name for one in sets for name, _ in one.pictures()]
    assert names["few"] == names["all"][:5]
    few, whole = ((tmp_path / f"{file}.h5").stat().st_size for file in ("few", "all"))
    assert few <= whole - 4 * 64 * 80  # pictures outside all splits leave nothing in the file


@pytest.mark.parametrize(
    ("pictures", "split", "dealt"),
    [
        (1, None, (1, 0, 0)),
        (2, None, (1, 1, 0)),
        (3, None, (1, 1, 1)),
        (4, (80, 10, 10), (2, 1, 1)),
        (5, (400, 50, 0), (4, 1, 0)),
        (3, (1000, 1, 1), (1, 1, 1)),
    ],
)
def test_from_three_pictures_on_every_share_gets_one(folder, tmp_path, pictures, split, dealt):
    for path in sorted(folder.rglob("*.png"))[pictures:]:
        path.unlink()
    prepared = prepare_images(folder, tmp_path / "images.h5", split=split)
    assert tuple(prepared.counts.values()) == dealt


def test_the_hash_is_of_how_pictures_are_dealt_out_and_of_patches_too(folder, tmp_path):
    hashes = set()
    for number, options in enumerate(
        (
            {"split": (6, 2, 2)},
            {"split": (7, 1, 2)},
            {"split": (6, 2, 2), "seed": 1},
            *({"split": (6, 2, 2), "patches": size, "per_image": many} for size, many in ((4, 9), (5, 9), (4, 8))),
            {"split": (6, 2, 2), "patches": 4, "per_image": 9, "seed": 1},
        )
    ):
        prepare_images(folder, tmp_path / f"{number}.h5", **options)
        hashes.add(storage.read(tmp_path / f"{number}.h5").attributes["sha256"])
    assert len(hashes) == number + 1
    prepare_images(folder, tmp_path / "again.h5", split=(6, 2, 2))
    assert storage.read(tmp_path / "again.h5").attributes["sha256"] in hashes


def test_a_run_on_pictures_dealt_out_otherwise_is_not_resumed(folder, images, tmp_path):
    def interrupt(*progress):
        signal.raise_signal(signal.SIGINT)

    prepare_images(folder, tmp_path / "other.h5", split=(7, 1, 2))
    with pytest.raises(KeyboardInterrupt):
        train(small_denoiser(), QUICK, task=Denoising(images, 24), out=tmp_path / "m.h5", progress=interrupt)
    with pytest.raises(FileError, match="images"):
        train(small_denoiser(), QUICK, task=Denoising(tmp_path / "other.h5", 24), out=tmp_path / "m.h5", resume=True)


def test_names_that_are_not_utf_8_are_kept_escaped(folder, tmp_path):
    odd = os.fsdecode(b"a\xff.png")
    try:
        save(folder / odd, scene())
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    prepare_images(folder, tmp_path / "images.h5", split=(11, 0, 0))
    assert "a\\udcff.png" in [name for name, _ in ImageSet(tmp_path / "images.h5", "train").pictures()]


def test_a_link_to_nothing_is_named(folder, tmp_path):
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert prepare_images(folder, tmp_path / "images.h5").skipped == [f"{folder}/gone.png is a link to nothing"]


def test_bad_files_are_skipped_by_name_or_refused(folder, tmp_path):
    (folder / "notes.txt").write_text("hello")
    data = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes(data[:100])
    (folder / ".hidden.png").write_text("passed by")
    prepared = prepare_images(folder, tmp_path / "images.h5")
    assert sorted(prepared.counts.values()) == [1, 1, 7]
    assert len(prepared.skipped) == 2
    assert any("notes.txt is not a picture" in reason for reason in prepared.skipped)
    assert any("0.png is damaged" in reason for reason in prepared.skipped)
    with pytest.raises(FileError, match="Remove it, or allow that such files are skipped"):
        prepare_images(folder, tmp_path / "strict.h5", strict=True)
    assert not (tmp_path / "strict.h5").exists()


def test_a_folder_without_pictures_is_refused(tmp_path):
    for name, said in {"missing": "not a folder", "empty": "is empty", "texts": "no picture that can be read"}.items():
        if name != "missing":
            (tmp_path / name).mkdir()
        if name == "texts":
            (tmp_path / name / "a.txt").write_text("a")
        with pytest.raises(FileError, match=said):
            prepare_images(tmp_path / name, tmp_path / "images.h5")
    assert not list(tmp_path.glob("*.h5"))


def test_crops_are_a_pure_function_of_the_key_and_lie_in_the_pictures(images):
    one = ImageSet(images, "train", 16)
    crops = one.crops(Key(0, TRAINING, 3), 5, 16)
    np.testing.assert_array_equal(crops, ImageSet(images, "train", 16).crops(Key(0, TRAINING, 3), 5, 16))
    assert np.abs(crops - one.crops(Key(0, TRAINING, 4), 5, 16)).max() > 0
    pictures = [np.lib.stride_tricks.sliding_window_view(pixels, (16, 16)) for _, pixels in one.pictures()]
    for crop in crops:
        assert any(np.isclose(windows, crop, atol=1e-6).all(axis=(2, 3)).any() for windows in pictures)


def test_pictures_smaller_than_the_crop_are_left_out_or_all_refused(folder, tmp_path):
    save(folder / "small.png", scene((20, 30)))
    prepare_images(folder, tmp_path / "images.h5", split=(11, 0, 0))
    large = ImageSet(tmp_path / "images.h5", "train", 40)
    assert (len(large), large.left_out) == (10, 1)
    with pytest.raises(InputError, match=r"give a crop of \d+ or less"):
        ImageSet(tmp_path / "images.h5", "train", 65)
    with pytest.raises(InputError, match="with a split that gives it some"):
        ImageSet(tmp_path / "images.h5", "test")


def test_noise_has_its_sigma_and_prefetching_changes_nothing(images):
    ops, task, denoiser = CpuOps(), Denoising(images, 32), small_denoiser()
    with contextlib.closing(task.source(denoiser, QUICK)) as ahead:
        drawn = [ahead.sample(ops, np.float32, 4, Key(1, TRAINING, step)) for step in range(4)]
    for step, (clean, noisy, _) in enumerate(drawn):
        with contextlib.closing(task.source(denoiser, QUICK)) as fresh:
            again = fresh.sample(ops, np.float32, 4, Key(1, TRAINING, step))
        np.testing.assert_array_equal(clean, again[0])
        np.testing.assert_array_equal(noisy, again[1])
        np.testing.assert_allclose(clean.mean(axis=(1, 2)), 0, atol=1e-6)
        assert 255 * (noisy - clean).std() == pytest.approx(20, rel=0.05)


def test_patches_are_chunked_and_no_pictures(folder, tmp_path):
    prepared = prepare_images(folder, tmp_path / "p.h5", split=(6, 2, 2), patches=8, per_image=50)
    assert prepared.counts == {"train": 6, "validation": 2, "test": 2}
    with h5py.File(tmp_path / "p.h5") as file:
        assert file["train/00000"].shape == (50, 8, 8)
        assert file["train/00000"].chunks == (50, 8, 8)
    with pytest.raises(FileError, match="cuista-patches file; expected cuista-images"):
        ImageSet(tmp_path / "p.h5", "train")


def test_a_picture_that_was_changed_is_refused_when_it_is_read(folder, tmp_path):
    """Even if it was changed to what a weak checksum takes for the same."""
    path = tmp_path / "p.h5"
    prepare_images(folder, path, split=(6, 2, 2))
    whole, (_, picture) = path.read_bytes(), next(ImageSet(path, "train").pictures())
    with h5py.File(path) as file:
        offset = file["train/00000"].id.get_chunk_info(0).byte_offset
    for change in (b"\xff" * 8, b"\0" * 8, b"\1"):
        path.write_bytes(whole[:offset] + change + whole[offset + len(change) :])
        with pytest.raises(FileError, match=r"p.h5 is damaged: it is not what was written \(its SHA-256 has changed\)"):
            list(ImageSet(path, "train").pictures())
    path.write_bytes(whole)
    for edit in (
        lambda file: file.move("train/00000", "train/00009"),
        lambda file: file.pop("train/00001"),
        lambda file: file["train/00002"].attrs.update(name="another"),
        lambda file: file["train/00003"].write_direct(np.zeros_like(file["train/00003"])),
    ):
        with h5py.File(path, "a") as file:
            edit(file)
        with pytest.raises(FileError, match=r"p.h5 is damaged: it is not what was written"):
            list(ImageSet(path, "train").pictures())
        path.write_bytes(whole)
    np.testing.assert_array_equal(next(ImageSet(path, "train").pictures())[1], picture)


# -- quality ----------------------------------------------------------------------------------------------------------


def test_ssim_is_scikit_images(rng):
    clean = scene()
    noisy = clean + 0.1 * rng.standard_normal(clean.shape)
    options = {"gaussian_weights": True, "use_sample_covariance": False, "data_range": 1.0}
    assert ssim(noisy, clean) == pytest.approx(structural_similarity(noisy, clean, **options), abs=1e-6)
    assert ssim(clean, clean) == pytest.approx(1)
    assert psnr_db(clean + 0.1, clean) == pytest.approx(20)


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", ["conv-alista", "conv-tilista", "conv-lista-cp", "conv-lista-cpss", "conv-csc"])
def test_training_denoises_and_a_file_brings_all_back(images, tmp_path, net):
    denoiser = small_denoiser(net)
    train(denoiser, QUICK, task=Denoising(images, 32), out=tmp_path / "model.h5")
    report = evaluate_denoisers({"net": denoiser}, images)
    assert report.methods == ("noisy", "net")
    for noisy, denoised in report.psnr_db:
        assert noisy == pytest.approx(22.1, abs=0.3)
        assert denoised > noisy + 2
    assert (report.ssim[:, 1] > report.ssim[:, 0]).all()
    loaded = Denoiser.load(tmp_path / "model.h5")
    noisy = scene()
    np.testing.assert_array_equal(loaded.denoise(noisy), denoiser.denoise(noisy))
    assert loaded.training == denoiser.training
    assert loaded.training["sigma"] == 20
    assert loaded.history["nmse_db"].min() < 0


def test_the_paper_recipe_trains_too(images):
    denoiser = small_denoiser()
    recipe = Denoising.recipes["paper"](max_steps=20, better_wait=10)
    assert (recipe.batch, recipe.validation_batch) == (4, 16)
    task = Denoising(images, 24)
    with contextlib.closing(task.source(denoiser, recipe)) as crops:
        validation = crops.sample(CpuOps(), np.float32, 16, Key(0, VALIDATION), validate=True)
        before = crops.error_db(denoiser.network, validation, 2)
        train(denoiser, recipe, task=task)
        assert crops.error_db(denoiser.network, validation, 2) == denoiser.training["validation_nmse_db"] < before
    assert denoiser.training["recipe"] == "paper"


def test_what_is_not_for_pictures_is_refused_before_it_trains(images):
    with pytest.raises(InputError, match="give task=Denoising"):
        train(small_denoiser())
    with pytest.raises(InputError, match=r"expected PictureFastRecipe or .* \(see Denoising\.recipes\)"):
        train(small_denoiser(), FastRecipe(), task=Denoising(images, 24))


@pytest.mark.parametrize("net", ["conv-alista", "conv-tilista", "conv-csc"])
def test_an_interrupted_run_is_resumed_to_the_bit(images, tmp_path, net):
    whole, cut, task = small_denoiser(net), small_denoiser(net), Denoising(images, 24)
    train(whole, QUICK, task=task)
    for step in (13, 19):  # in the first stage, and in the stage that trains the filters if there is one

        def interrupt(progress, step=step):
            if progress.step == step and progress.title == ("all layers" if step == 13 else "everything"):
                signal.raise_signal(signal.SIGINT)

        if step == 13 or net != "conv-alista":
            with pytest.raises(KeyboardInterrupt):
                train(
                    small_denoiser(net),
                    QUICK,
                    task=Denoising(images, 24),
                    out=tmp_path / "m.h5",
                    resume=True,
                    progress=interrupt,
                )
    train(cut, QUICK, task=Denoising(images, 24), out=tmp_path / "m.h5", resume=True)
    for name, value in whole.network.parameters.items():
        np.testing.assert_array_equal(cut.network.parameters[name], value)
    with pytest.raises(FileError, match="exists already"):
        train(small_denoiser(net), QUICK, task=Denoising(images, 25), out=tmp_path / "m.h5")


def test_a_checkpoint_of_other_crops_is_refused(images, tmp_path):
    def interrupt(progress):
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(small_denoiser(), QUICK, task=Denoising(images, 24), out=tmp_path / "m.h5", progress=interrupt)
    with pytest.raises(FileError, match=r"crop \(then 24, now 25"):
        train(small_denoiser(), QUICK, task=Denoising(images, 25), out=tmp_path / "m.h5", resume=True)


@pytest.mark.filterwarnings("ignore:training has ended at")
def test_the_cuda_engine_trains_to_the_same(cuda, images):
    plain, device = (small_denoiser(dtype=np.float64, ops=ops) for ops in (None, cuda))
    recipe = Denoising.recipes["fast"](max_steps=4, batch=2, validation_batch=2)
    for denoiser in (plain, device):
        train(denoiser, recipe, task=Denoising(images, 16))
    for name, value in plain.network.parameters.items():
        np.testing.assert_allclose(cuda.to_numpy(device.network.parameters[name]), value, rtol=1e-8)
    np.testing.assert_allclose(device.denoise(scene()), plain.denoise(scene()), atol=1e-8)


def test_a_learned_dictionary_codes_pictures_better_and_resumes_to_the_bit(images, tmp_path):
    pictures = ImageSet(images, "train", 24)
    recipe = LearningRecipe(steps=20, batch=2, crop=24, iterations=20)
    seen = []
    learned = learn_dictionary(
        pictures, (3, 3), 8, recipe, out=tmp_path / "d.h5", progress=lambda *now: seen.append(now)
    )
    assert learned.normalized
    assert len(seen) == 20
    crops = ImageSet(images, "validation", 24).crops(Key(0, VALIDATION), 4, 24)
    crops -= crops.mean(axis=(1, 2), keepdims=True)
    from cuista.training.dictionary import _descent

    random = Dictionary(random_dictionary((3, 3), 8))
    after, before = (_descent(dictionary, crops, recipe, CpuOps())[2] for dictionary in (learned, random))
    assert after < 0.9 * before

    def interrupt(step, steps, objective):
        if step == 7:
            signal.raise_signal(signal.SIGINT)

    again = {"out": tmp_path / "again.h5"}
    with pytest.raises(KeyboardInterrupt):
        learn_dictionary(pictures, (3, 3), 8, recipe, **again, progress=interrupt)
    with pytest.raises(FileError, match="another run"):
        learn_dictionary(pictures, (3, 3), 9, recipe, **again, resume=True)
    resumed = learn_dictionary(pictures, (3, 3), 8, recipe, **again, resume=True)
    np.testing.assert_array_equal(resumed.D, learned.D)
    # A dictionary that is complete is read, if its run is the same.
    finished = learn_dictionary(pictures, (3, 3), 8, recipe, **again, resume=True, progress=interrupt)
    np.testing.assert_array_equal(finished.D, learned.D)
    with pytest.raises(FileError, match=r"another run, which differs in filters \(then 8, now 9\)"):
        learn_dictionary(pictures, (3, 3), 9, recipe, **again, resume=True)
    assert sorted(path.name for path in tmp_path.glob("*.h5*")) == ["again.h5", "d.h5", "images.h5"]


@pytest.mark.parametrize("stride", [1, 2])
def test_the_gradient_of_a_dictionary_is_that_of_central_differences(stride, rng):
    from cuista.training.dictionary import _descent

    # This is the gradient for fixed codes, since the solver here always returns the same ones.
    ops, D = CpuOps(), random_dictionary((3, 2), 4)
    f, x = rng.standard_normal((9, 8)), rng.standard_normal((4, *map_shape((9, 8), (3, 2), stride)))

    def synthesize(D):
        return ops.synthesize(x, D, stride, (9, 8))

    def loss(D):
        return 0.5 * np.square(synthesize(D) - f).sum()

    class Fixed:
        def __init__(self, *arguments, **options):
            pass

        def iterates(self, crop):
            yield x, synthesize(D)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cuista.training.dictionary.ConvFista", Fixed)
        gradient, curvature, _ = _descent(Dictionary(D), f[None], LearningRecipe(), ops, stride)
    direction = rng.standard_normal(D.shape)
    slope = (loss(D + 1e-6 * direction) - loss(D - 1e-6 * direction)) / 2e-6
    assert slope == pytest.approx((gradient * direction).sum(), rel=1e-7)
    assert curvature == pytest.approx(np.square(synthesize(gradient)).sum())


# -- the command line -------------------------------------------------------------------------------------------------

TRAIN = ("--max-steps", 20, "--batch", 2, "--validation-batch", 2, "--crop", 24, "-T", 2)


def test_from_a_folder_to_a_denoised_picture(run, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm3d", None)  # it takes long
    run("prepare-images", folder, "--split", "6,2,2")
    assert "6 for train, 2 for validation, 2 for test" in run.errors
    run("learn-dict", "images.h5", "--size", 3, "--filters", 8, "--steps", 5, "--crop", 24, "--batch", 1)
    report = json.loads(run("solve-w", "--conv", "dictionary.h5", "--json"))
    assert report["constraint_residual"] < 1e-12
    run("train", "images.h5", "--task", "denoise", "--net", "conv-alista", "--sigma", 25, "-W", "weight.h5", *TRAIN)
    table = run("test", "model.h5", "--images", "images.h5", "--baselines", "-o", "report.h5")
    for word in ("noisy dB", "fista 2 dB", "fista 100 dB", "nl-means dB", "conv-alista SSIM", "mean"):
        assert word in table
    assert "bm3d is left out, because bm3d is not installed (pip install bm3d)" in run.errors
    result = json.loads(run("test", "model.h5", "--images", "images.h5", "--json"))
    assert result["sigma"] == 25
    assert result["mean"]["conv-alista"]["psnr_db"] > result["mean"]["noisy"]["psnr_db"] == pytest.approx(20.2, abs=0.3)
    assert storage.read("report.h5").arrays["psnr_db"].shape == (2, 5)
    colours = np.dstack([scene((50, 70), seed) for seed in range(3)])
    save("in.png", colours)
    run("denoise", "model.h5", "in.png", "-o", "out.png", "--compare", "beside.png", "--sigma", 25)
    denoised, beside = np.asarray(Image.open("out.png")), np.asarray(Image.open("beside.png"))
    assert denoised.shape == (50, 70, 3)
    assert len(beside) > 60  # with captions above
    np.testing.assert_array_equal(beside[-50:, 70:140], denoised)
    whole = denoise_picture(Denoiser.load("model.h5"), np.moveaxis(np.rint(255 * colours) / 255, 2, 0), sigma=25.0)
    np.testing.assert_allclose(denoised, np.clip(255 * np.moveaxis(whole.channels, 0, 2), 0, 255), atol=0.51)
    assert "conv-alista" in run("info", "model.h5")
    run("plot", "model.h5", "-o", "steps.png")
    run("denoise", "model.h5", "in.png", "-o", "out.png", fails=1)
    assert "--force" in run.errors


@pytest.mark.filterwarnings("ignore:training has ended at")
def test_from_a_folder_to_a_denoiser_with_a_stride(run, folder):
    run("prepare-images", folder, "--split", "6,2,2")
    few = (*TRAIN, "--matrix-steps", 4)
    run("train", "images.h5", "--net", "conv-csc", "--stride", 2, "--size", 4, "--filters", 8, "--sigma", "5,35", *few)
    assert "Conv-CSC, 2 layers" in run("info", "model.h5")
    assert "for noise of σ = 5 to 35" in run("info", "model.h5")
    assert "stride 2" in run("info", "model.h5")
    report = json.loads(run("test", "model.h5", "--images", "images.h5", "--json", "--baselines"))
    assert report["mean"]["conv-csc"]["psnr_db"] > report["mean"]["noisy"]["psnr_db"]
    learn = ("learn-dict", "images.h5", "--size", 4, "--filters", 18, "--stride", 3, "--steps", 2, "--crop", 24)
    run(*learn)
    run("solve-w", "--conv", "--stride", 3, "--ridge", 1, "dictionary.h5")
    run("train", "images.h5", "--net", "conv-alista", "--per-filter", "-W", "weight.h5", "-o", "other.h5", *TRAIN)
    assert "72 learned numbers" in run("info", "other.h5")
    run("train", "images.h5", "--net", "conv-alista", "-W", "weight.h5", "--stride", 3, *TRAIN, "--force", fails=2)
    assert "--stride is for a weight computed here" in run.errors
    run(
        "train", "images.h5", "--net", "conv-csc", "--dict", "dictionary.h5", "--filters", 9, *TRAIN, "--force", fails=2
    )
    assert "--size and --filters are for a dictionary of cosines" in run.errors
    run("train", "images.h5", "--net", "conv-csc", "--stride", 10, *TRAIN, "--force", fails=1)
    assert "expected a number from 1 to the size of the filters, which are 7×7" in run.errors


@pytest.mark.filterwarnings("ignore:training has ended at")
def test_denoising_gets_the_ridge_that_denoises_best(run, folder, monkeypatch):
    monkeypatch.setattr("cuista.tasks.denoising.RIDGES", (0.0, 10.0))
    run("prepare-images", folder, "--split", "6,2,2")
    run("gen-problem", "--conv", "--size", 3, "--filters", 8)
    run("train", "images.h5", "--net", "conv-alista", "--sigma", 60, "--dict", "dictionary.h5", *TRAIN)
    tried = dict(re.findall(r"ridge (\S+): (\S+) dB", run.errors))
    assert list(tried) == ["0", "80"]
    best = min(tried, key=lambda ridge: float(tried[ridge]))
    assert f"Ridge {best} is best." in run.errors
    assert Denoiser.load("model.h5").weight.report.ridge == pytest.approx(float(best))


def test_a_folder_too_small_to_train_on_is_said_at_once(run, folder):
    run("prepare-images", folder, "--split", "8,0,0")
    assert "Note: no picture is left for validation, which cuista train needs" in run.errors
    assert "cuista test" not in run.errors
    for path in sorted(folder.rglob("*.png"))[1:]:
        path.unlink()
    run("prepare-images", folder, "--force")
    assert "which cuista train needs" in run.errors
    assert "no picture is left for cuista test" in run.errors


@pytest.mark.parametrize("target", ["-o", "--compare"])
def test_a_format_that_does_not_fit_is_said_before_anything_is_written(run, target, monkeypatch):
    small_denoiser().save("model.h5")
    write_picture("in.png", Picture(np.stack([scene()] * 3), Form(16)))
    monkeypatch.setattr(Denoiser, "denoise", None)
    names = {"-o": "out.png", "--compare": "beside.png", target: "bad.webp"}
    run("denoise", "model.h5", "in.png", *(word for pair in names.items() for word in pair), fails=1)
    assert "bad.webp: the picture is colour, of 16 bits, which can be written as PNG or TIFF only" in run.errors
    assert sorted(path.name for path in Path().iterdir()) == ["in.png", "model.h5"]


@pytest.mark.parametrize("net", ["conv-alista", "conv-lista-cpss"])
def test_a_network_that_selects_within_tiles_is_said_to(run, net, monkeypatch):
    small_denoiser(net).save("model.h5")
    save("in.png", scene())
    run("denoise", "model.h5", "in.png", "-o", "whole.png")
    assert "Note" not in run.errors
    monkeypatch.setattr("cuista.tasks.denoising.TILE_BYTES", 0)
    run("denoise", "model.h5", "in.png", "-o", "tiles.png")
    assert ("Note: the picture is processed in tiles" in run.errors) == (net == "conv-lista-cpss")


def test_info_of_pictures_is_by_split_and_reads_none(run, folder, monkeypatch):
    deep = np.zeros((30, 20), np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    for words in (("--split", "11,0,0"), ("--split", "8,2,1", "--patches", 8, "--per-image", 1, "-o", "patches.h5")):
        run("prepare-images", folder, *words)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", None)
    lines = run("info", "images.h5").splitlines()
    assert lines[-3:] == [
        "train: 11 pictures of 30×20 to 64×80 uint16 and uint8",
        "validation: 0 pictures",
        "test: 0 pictures",
    ]
    assert run("info", "patches.h5").splitlines()[-1].startswith("test: 1 patch of 8×8 uint")
    split = json.loads(run("info", "patches.h5", "--json"))["splits"]["validation"]
    assert (split["pictures"], split["patches"], split["smallest"]) == (2, 2, [8, 8])


def test_pictures_too_small_for_ssim_are_left_out_with_a_note(run, folder):
    small_denoiser().save("model.h5")
    save(folder / "small.png", scene((10, 30)))
    run("prepare-images", folder, "--split", "1,0,10")
    table = run("test", "model.h5", "--images", "images.h5")
    assert "small.png" in [name for name, _ in ImageSet("images.h5", "test").pictures()]
    assert "Note: 1 test picture is left out: smaller than SSIM's window of 11×11 pixels." in run.errors
    assert "small.png" not in table
    for path in folder.rglob("*.png"):
        save(path, scene((10, 30)))
    run("prepare-images", folder, "--force")
    run("test", "model.h5", "--images", "images.h5", fails=1)
    assert "as large as SSIM's window of 11×11" in run.errors
    assert "--crop" not in run.errors


@pytest.mark.parametrize("sigma", ["nan", "inf", "0", "-1", "much"])
def test_a_sigma_that_is_none_is_refused_as_an_option(run, images, sigma):
    small_denoiser().save("model.h5")
    for words in (("test", "model.h5", "--images", images), ("train", images, "--net", "conv-alista")):
        run(*words, "--sigma", sigma, fails=2)
        assert "--sigma" in run.errors
        expected = "is not a number greater than 0" if words[0] == "test" else "is not a standard deviation, like 25"
        assert expected in run.errors


def test_a_baseline_is_tuned_on_what_it_is_tested_on(folder, tmp_path):
    for number in range(6):
        picture = np.tile(np.linspace(0, 1, 300), (280, 1))
        save(folder / f"{number}.png", 0.5 * picture + 0.5 * scene((280, 300), number))
    prepare_images(folder, tmp_path / "images.h5", split=(1, 9, 0))
    pairs = tuning_pairs(tmp_path / "images.h5", 20)
    assert len(pairs) == 4
    pictures = [pixels for _, pixels in ImageSet(tmp_path / "images.h5", "validation").pictures()]
    for (clean, noisy), whole in zip(pairs, pictures, strict=False):
        assert clean.shape == tuple(min(size, 256) for size in whole.shape)
        top, left = ((size - part) // 2 for size, part in zip(whole.shape, clean.shape, strict=True))
        middle = whole[top : top + clean.shape[0], left : left + clean.shape[1]]
        np.testing.assert_allclose(clean, middle - whole.mean(), atol=1e-12)
        assert 255 * (noisy - clean).std() == pytest.approx(20, rel=0.05)
    np.testing.assert_array_equal(tuning_pairs(tmp_path / "images.h5", 20)[0][1], pairs[0][1])
    assert np.abs(tuning_pairs(tmp_path / "images.h5", 20, seed=1)[0][1] - pairs[0][1]).max() > 0


@pytest.mark.parametrize(("file", "turned"), [("d.mat", True), ("d.npy", False), ("d.h5", False)])
def test_filters_are_imported_for_what_they_were_made(run, file, turned):
    D = random_dictionary((3, 2), 4)
    storage.save_arrays(file, {"D": 2 * D})
    run("gen-problem", "--conv", "--load-dict", file)
    np.testing.assert_allclose(Dictionary.load("dictionary.h5").D, rotate(D) if turned else D)
    assert "(--convention changes that)" in run.errors
    other = "correlation" if turned else "convolution"
    run("gen-problem", "--conv", "--load-dict", file, "--convention", other, "--no-normalize", "--force")
    np.testing.assert_allclose(Dictionary.load("dictionary.h5").D, 2 * (D if turned else rotate(D)))
    run("solve-w", "--conv", file, "--convention", "correlation", "--method", "pgd", fails=1)
    assert "or solve exactly, which takes any norms (--method)" in run.errors
    run("solve-w", "--conv", file, "--ridge", 0.5)


def test_solve_w_says_what_it_takes_bare_filters_for(run):
    D = random_dictionary((3, 3), 8)
    np.save("d.npy", D)
    run("solve-w", "--conv", "d.npy")
    assert "Reading d.npy as 8 filters of 3×3, for correlation (--convention changes that)." in run.errors
    assert "Note" not in run.errors
    np.save("first.npy", np.moveaxis(D, -1, 0))
    run("solve-w", "--conv", "first.npy", "--convention", "convolution", "--force")
    assert "3 filters of 8×3, for convolution." in run.errors
    assert "If these are 8 filters of 3×3, save np.moveaxis(D, 0, -1) instead." in run.errors
    run("gen-problem", "--conv", "--filters", 1)
    assert "1 filter of 7×7" in run.errors


@pytest.mark.parametrize("convention", [(), ("--convention", "convolution"), ("--convention", "correlation")])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
def test_filters_and_their_weights_survive_conversion(run, suffix, convention):
    run("gen-problem", "--conv", "--size", "3x2", "--filters", 5)
    run("solve-w", "--conv", "dictionary.h5")
    D, W = Dictionary.load("dictionary.h5").D, ConvWeight.load("weight.h5").W
    turned = convention[-1:] == ("convolution",) or (not convention and suffix == ".mat")
    run("convert", "dictionary.h5", f"D{suffix}", *convention)
    np.testing.assert_array_equal(storage.load_array(f"D{suffix}", "D"), rotate(D) if turned else D)
    run("convert", f"D{suffix}", "again.h5", *convention)
    np.testing.assert_array_equal(Dictionary.load("again.h5").D, D)
    run("convert", "weight.h5", f"W{suffix}", *convention)
    turned = convention[-1:] != ("correlation",)  # weights are published for convolution, whatever the format
    np.testing.assert_array_equal(storage.load_array(f"W{suffix}", "W"), rotate(W) if turned else W)
    assert f"Writing the filters for {'convolution' if turned else 'correlation'}" in run.errors
    run("convert", f"W{suffix}", "weight2.h5", "--dict", "dictionary.h5", *convention)
    np.testing.assert_array_equal(ConvWeight.load("weight2.h5").W, W)
    if suffix != ".npy":  # the file holds the dictionary too
        run("convert", f"W{suffix}", "weight3.h5", *convention)
        np.testing.assert_array_equal(ConvWeight.load("weight3.h5").W, W)
        assert Dictionary.load("weight3.h5").sha256 == Dictionary.load("dictionary.h5").sha256


def test_what_of_filters_cannot_be_converted_is_said(run):
    run("gen-problem", "--m", 5, "--n", 9)
    run("gen-problem", "--conv", "--size", 3, "--filters", 4)
    small_denoiser().save("model.h5")
    np.savez("W.npz", W=2 * random_dictionary((3, 3), 4))
    np.save("A.npy", np.eye(3))
    for words, status, said in (
        (("W.npz", "w.h5"), 2, "--dict"),
        (("W.npz", "w.h5", "--dict", "dictionary.h5"), 1, "does not belong to this dictionary"),
        (("W.npz", "w.h5", "--problem", "problem.h5"), 2, "--problem"),
        (("A.npy", "a.h5", "--convention", "convolution"), 2, "--convention"),
        (("problem.h5", "a.npy", "--convention", "convolution"), 2, "--convention"),
        (("dictionary.h5", "d.npy", "--dict", "dictionary.h5"), 2, "--dict"),
        (("model.h5", "m.npz", "--convention", "convolution"), 2, "model.h5 is a cuista-denoiser file"),
    ):
        run("convert", *words, fails=status)
        assert said in run.errors
    for words, convertible in (
        (("gen-problem", "--conv", "-o", "d.npy"), True),
        (("solve-w", "--conv", "dictionary.h5", "-o", "w.mat"), True),
        (("learn-dict", "images.h5", "-o", "d.mat"), True),
        (("prepare-images", ".", "-o", "images.npz"), False),
        (("test", "model.h5", "-o", "report.npz"), False),
    ):
        run(*words, fails=2)
        assert ("cuista convert" in run.errors) == convertible


def test_random_dictionaries_follow_their_seed(run):
    run("gen-problem", "--conv", "--size", "5x3", "--filters", 6, "--seed", 4)
    np.testing.assert_array_equal(Dictionary.load("dictionary.h5").D, random_dictionary((5, 3), 6, seed=4))


@pytest.fixture
def prepared(run, folder):
    run("prepare-images", folder, "--split", "6,2,2")
    run("gen-problem", "--conv", "--size", 3, "--filters", 6)
    return run


def test_mistakes_are_said_in_one_line(prepared):
    run = prepared
    problem = ("gen-problem", "--m", 5, "--n", 9)
    run(*problem)
    cases = [
        (("train", "images.h5", "--net", "conv-alista"), 2, "--dict FILE"),
        (("train", "--net", "conv-alista", "--dict", "dictionary.h5"), 2, "IMAGES"),
        (("train", "images.h5", "--task", "denoise"), 2, "--dict"),
        (("train", "images.h5", "--task", "sc", "--net", "conv-alista"), 2, "--net"),
        (("train", "problem.h5", "--sigma", 20), 2, "--sigma"),
        (("train", "images.h5", "--net", "conv-alista", "--dict", "dictionary.h5", "--pnz", 0.1), 2, "--pnz"),
        (("train", "problem.h5", "--net", "conv-alista", "--dict", "dictionary.h5"), 1, "expected cuista-images"),
        (("train", "images.h5", "--net", "conv-alista", "--dict", "images.h5"), 1, "expected cuista-dictionary"),
        (("train", "images.h5", "--net", "conv-alista", "--dict", "dictionary.h5", "--crop", 200), 1, "--crop"),
        (("train", "images.h5", "--net", "conv-alista", "--dict", "dictionary.h5", "--ridge", "-1"), 2, "--ridge"),
        (("solve-w", "--conv", "problem.h5"), 1, "expected cuista-dictionary"),
        (("solve-w", "problem.h5", "--convention", "convolution"), 2, "--conv"),
        (("solve-w", "--conv", "missing.npy"), 1, "does not exist"),
        (("gen-problem", "--conv", "--pnz", 0.1), 2, "--pnz"),
        (("gen-problem", "--load-dict", "d.npy"), 2, "--task denoise"),
        (("gen-problem", "--conv", "--size", "3x", "--force"), 2, "--size"),
        (("learn-dict", "images.h5", "--crop", 100, "-o", "d.h5"), 1, "--crop"),
        (("learn-dict", "images.h5", "--constant", "-o", "d.h5"), 2, "--constant: images.h5 has whole pictures"),
        (("learn-dict", "problem.h5", "-o", "d.h5"), 1, "expected cuista-images"),
        (("prepare-images", "nowhere", "-o", "i.h5"), 1, "not a folder"),
        (("prepare-images", ".", "--split", "1,2", "-o", "i.h5"), 2, "400,50,50"),
        (("prepare-images", ".", "--per-image", 9, "-o", "i.h5"), 2, "--patches"),
        (("denoise", "problem.h5", "a.png", "-o", "b.png"), 1, "expected cuista-denoiser"),
        (("denoise", "problem.h5", "a.png", "-o", "b.xyz"), 1, "ending in"),
        (("denoise", "problem.h5", "a.png", "-o", "no/b.png"), 1, "does not exist"),
    ]
    for words, status, said in cases:
        run(*words, fails=status)
        assert said in run.errors, (words, run.errors)
        assert len([line for line in run.errors.splitlines() if line.startswith("Error")]) == 1


def test_a_denoiser_is_tested_with_pictures_and_recovers_no_codes(prepared):
    run = prepared
    run("train", "images.h5", "--net", "conv-alista", "--dict", "dictionary.h5", *TRAIN)
    run("test", "model.h5", fails=2)
    assert "--images" in run.errors
    run("test", "model.h5", "--images", "images.h5", "--samples", 5, fails=2)
    assert "--samples" in run.errors
    run("recover", "model.h5", "y.npy", fails=1)
    assert "cuista-denoiser file" in run.errors
    data = Path("model.h5").read_bytes()
    Path("cut.h5").write_bytes(data[: len(data) // 2])
    run("denoise", "cut.h5", "a.png", "-o", "b.png", fails=1)
    assert "damaged" in run.errors
    run("denoise", "model.h5", "a.png", "-o", "b.png", fails=1)
    assert "a.png does not exist" in run.errors
    whole = Path("model.h5").read_bytes()
    for name in ("parameters/threshold", "W", "D"):
        Path("model.h5").write_bytes(whole)
        with h5py.File("model.h5", "a") as file:
            file[name][0] = np.nan if name != "D" else 1
        run("test", "model.h5", "--images", "images.h5", fails=1)
        assert "damaged" in run.errors


@pytest.mark.slow
def test_training_can_be_interrupted_and_resumed(prepared, interrupt):
    run = prepared
    words = ("train", "images.h5", "--net", "conv-lista-cp", "--dict", "dictionary.h5", *TRAIN)
    words = (*words, "--matrix-steps", 20)
    interrupt(*words, "-o", "cut.h5", when=lambda at, name: at.stage_number == 2 and at.step == 4)
    assert "--resume" in run.errors
    run(*words, "-o", "cut.h5", fails=1)
    assert "unfinished run" in run.errors
    run(*words, "-o", "cut.h5", "--resume")
    run(*words, "-o", "whole.h5")
    cut, whole = Denoiser.load("cut.h5"), Denoiser.load("whole.h5")
    for name, value in whole.network.parameters.items():
        np.testing.assert_array_equal(cut.network.parameters[name], value)
