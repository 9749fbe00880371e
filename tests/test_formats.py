"""What the files of pictures say about their numbers is believed, and passed on; what they claim is checked."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path

import numpy as np
import png
import pytest
import tifffile
from PIL import Image, ImageCms
from test_pictures import save, scene, small_denoiser

from cuista.data import tiff
from cuista.data.form import INCH, Form
from cuista.data.images import ImageSet
from cuista.data.pictures import Picture, Pictures, left_out, read_picture, write_picture, write_pictures
from cuista.errors import FileError, MissingLibraryError
from cuista.evaluation.integrity import check_file
from cuista.tasks.denoising import Denoiser
from cuista.tasks.photographs import denoise_picture

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY, COLOUR = scene((23, 37)), np.stack([scene((23, 37), seed) for seed in range(3)])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A file with an untrained denoiser."""
    path = tmp_path_factory.mktemp("model") / "model.h5"
    small_denoiser().save(path)
    return path.read_bytes()


@pytest.fixture
def run(saved, run):
    """Runs commands in a folder with that file."""
    Path("model.h5").write_bytes(saved)
    return run


def numbers(brightness, dtype, white):
    return (brightness * white if dtype[0] == "f" else np.rint(brightness * white)).astype(dtype)


def write_tiff(path, pixels, **options):
    """Write a TIFF; rows of numbers with fewer bits than their bytes have are packed here, digit by digit."""
    bits = options.get("bitspersample")
    if bits is None:
        tifffile.imwrite(path, pixels, **options)
        return
    rows = ["".join(f"{number:0{bits}b}" for number in row.ravel()) for page in pixels for row in page]
    whole = -(-len(rows[0]) // 8)
    packed = b"".join(int(row.ljust(8 * whole, "0"), 2).to_bytes(whole, "big") for row in rows)
    size, shape = whole * pixels.shape[1], pixels.shape[1:]
    with tifffile.TiffWriter(path) as writer:
        for number in range(len(pixels)):
            part = iter([packed[number * size : (number + 1) * size]])
            writer.write(part, shape=shape, dtype=pixels.dtype, rowsperstrip=shape[0], metadata=None, **options)


def last(channels):
    """The channels in the last axis."""
    return np.moveaxis(channels, 0, -1)


# -- TIFF -------------------------------------------------------------------------------------------------------------

LZW = {"compression": "lzw", "predictor": True}
# The type of the numbers, which of them is white, and how the file is written.
KINDS = {
    "8 bits": ("u1", 255, {}),
    "8 bits, signed": ("i1", 127, {}),
    "10 bits, packed": ("u2", 1023, {"bitspersample": 10}),
    "12 bits, packed": ("u2", 4095, {"bitspersample": 12}),
    "14 bits, packed": ("u2", 16383, {"bitspersample": 14}),
    "16 bits": ("u2", 65535, {}),
    "16 bits, signed": ("i2", 32767, {"byteorder": ">"}),
    "16 bits, LZW": ("u2", 65535, LZW),
    "16 bits, deflate": ("u2", 65535, {"compression": "zlib", "predictor": True, "byteorder": ">"}),
    "16 bits, tiles": ("u2", 65535, {"tile": (16, 16), **LZW}),
    "16 bits, strips": ("u2", 65535, {"rowsperstrip": 5, "compression": "packbits"}),
    "BigTIFF": ("u2", 65535, {"bigtiff": True, "byteorder": ">"}),
    "32 bits": ("u4", 2**32 - 1, {}),
    "32 bits, signed": ("i4", 2**31 - 1, {}),
    "64 bits": ("u8", 2.0**64 - 2**11, {}),
    "float16": ("f2", 1, {}),
    "float32": ("f4", 1, {"compression": "lzw", "predictor": 3}),
    "float64": ("f8", 1, {"byteorder": ">"}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("colour", [False, True])
def test_the_numbers_of_a_tiff_are_what_its_header_says(tmp_path, kind, colour):
    dtype, white, options = KINDS[kind]
    stored = numbers(COLOUR if colour else GREY[None], dtype, white)
    pixels = last(stored) if colour else stored[0]
    planar = {"planarconfig": "separate"} if colour and kind in ("16 bits, deflate", "float64") else {}
    if planar:
        pixels = stored
    pages = pixels[None] if "bitspersample" in options else pixels
    write_tiff(tmp_path / "p.tif", pages, photometric="rgb" if colour else "minisblack", **planar, **options)
    picture = read_picture(tmp_path / "p.tif")
    np.testing.assert_allclose(picture.channels, stored.astype(float) / white, rtol=1e-15)
    assert picture.alpha is None
    if not colour:
        write_tiff(tmp_path / "negative.tif", pages, photometric="miniswhite", **options)
        np.testing.assert_allclose(
            read_picture(tmp_path / "negative.tif").channels, 1 - stored.astype(float) / white, atol=1e-15
        )
    write_picture(tmp_path / "again.tif", picture)
    with tifffile.TiffFile(tmp_path / "again.tif") as file:
        page = file.pages.first
        assert (page.dtype, page.bitspersample) == (np.dtype(dtype), options.get("bitspersample", 8 * stored.itemsize))
        assert file.is_bigtiff == ("bigtiff" in options)
        np.testing.assert_array_equal(page.asarray(), last(stored) if colour else stored[0])


@pytest.mark.parametrize("samples", ["minisblack", "rgb"])
@pytest.mark.parametrize("opacity", ["unassalpha", "assocalpha", "unspecified"])
def test_more_samples_are_opacity_or_channels_as_the_header_says(tmp_path, samples, opacity, rng):
    colours = rng.random((3 if samples == "rgb" else 1, 9, 7))
    alpha = np.round(rng.uniform(0.2, 1, (1, 9, 7)), 2)
    stored = numbers(np.concatenate([colours * alpha if opacity == "assocalpha" else colours, alpha]), "u2", 65535)
    options = {"photometric": samples, "planarconfig": "contig", "extrasamples": [opacity]}
    tifffile.imwrite(tmp_path / "p.tif", last(stored), **options)
    picture = read_picture(tmp_path / "p.tif")
    expected = np.concatenate([colours, alpha]) if opacity == "unspecified" else colours
    np.testing.assert_allclose(picture.channels, expected, atol=1e-4)
    if opacity != "unspecified":
        np.testing.assert_allclose(picture.alpha, alpha[0], atol=1e-5)
    write_picture(tmp_path / "again.tif", picture)
    again = read_picture(tmp_path / "again.tif")
    np.testing.assert_allclose(again.channels, picture.channels, atol=1e-12)
    assert (again.alpha is None) == (opacity == "unspecified")
    if opacity == "unspecified" and samples == "minisblack":
        with pytest.raises(FileError, match="has 2 channels that are not red, green and blue"):
            picture.grey()


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_palettes_are_replaced_by_their_colours(tmp_path, dtype, rng):
    deep = dtype == "u2"
    palette = rng.integers(0, 65536, (3, 65536 if deep else 256), np.uint16)
    index = rng.integers(0, palette.shape[1], (9, 7)).astype(dtype)
    tifffile.imwrite(tmp_path / "p.tif", index, photometric="palette", colormap=palette)
    expected = palette[:, index] / 65535 if deep else (palette[:, index] >> 8) / 255
    np.testing.assert_allclose(read_picture(tmp_path / "p.tif").channels, expected)


def denoised(pixels, white):
    """What the command makes of a picture with --sigma 20."""
    return white * denoise_picture(Denoiser.load("model.h5"), pixels[None] / white, sigma=20.0).channels[0]


def test_what_no_header_says_is_asked_for(tmp_path, run):
    """Floating point has no white, and 32-bit integers with small values are not brightness as they are."""
    files = {"f.tif": numbers(GREY, "f4", 1000), "i.tif": numbers(GREY, "u4", 1000), "s.tif": numbers(GREY, "i4", 1000)}
    for name, pixels in files.items():
        tifffile.imwrite(name, pixels)
        run("denoise", "model.h5", name, "-o", "out.tif", fails=1)
        assert name in run.errors
        assert "white" in run.errors
        assert run.errors.endswith("(--white)\n")
        assert not Path("out.tif").exists()
        run("denoise", "model.h5", name, "-o", f"out-{name}", "--white", 1000, "--sigma", 20)
        assert "Note" not in run.errors
        found = tifffile.imread(f"out-{name}")
        assert found.dtype == pixels.dtype
        expected = denoised(pixels, 1000)
        expected = expected if name == "f.tif" else np.clip(np.rint(expected), 0 if name == "i.tif" else -9, None)
        np.testing.assert_allclose(found, expected, atol=1e-3)
    run("denoise", "model.h5", "i.tif", "-o", "out.tif", "--white", 2**40, fails=1)
    assert "give a smaller number (--white)" in run.errors
    tifffile.imwrite("nan.tif", np.where(GREY > 0.5, np.nan, GREY).astype("f4"))
    run("denoise", "model.h5", "nan.tif", "-o", "out.tif", fails=1)
    assert "NaN or infinite numbers" in run.errors


@pytest.mark.parametrize("ending", ["tif", "png"])
def test_fewer_bits_than_their_container_has_are_noted(run, ending):
    stored = numbers(GREY, "u2", 4095)
    Image.fromarray(stored).save(f"in.{ending}")
    run("denoise", "model.h5", f"in.{ending}", "-o", "dark.tif")
    assert f"Note: no number in in.{ending} is above {stored.max()}, of 65535" in run.errors
    assert "if these are 12-bit data, white is 4095 (--white)" in run.errors
    run("denoise", "model.h5", f"in.{ending}", "-o", f"out.{ending}", "--white", 4095, "--sigma", 20)
    assert "Note" not in run.errors
    expected = denoised(stored, 4095)
    np.testing.assert_allclose(np.asarray(Image.open(f"out.{ending}")), np.clip(expected, 0, 65535), atol=0.51)


def test_numbers_below_black_are_kept(run):
    stored = (3000 * GREY - 1024).astype(np.int16)
    tifffile.imwrite("ct.tif", stored)
    run("denoise", "model.h5", "ct.tif", "-o", "out.tif", "--white", 2000, "--sigma", 20)
    found = tifffile.imread("out.tif")
    assert found.dtype == np.int16
    np.testing.assert_allclose(found, denoised(stored, 2000), atol=0.51)
    assert found.min() < -200


# -- pages and frames -------------------------------------------------------------------------------------------------


def stack(count=3, dtype="u2", white=65535):
    return numbers(np.stack([scene((23, 37), seed) for seed in range(count)]), dtype, white)


@pytest.mark.parametrize(("dtype", "white"), [("u1", 255), ("u2", 65535), ("f4", 1)])
def test_all_pages_of_a_stack_are_denoised(run, dtype, white):
    pages = stack(3, dtype, white)
    tifffile.imwrite("in.tif", pages, photometric="minisblack")
    run("denoise", "model.h5", "in.tif", "-o", "out.tif", "--compare", "beside.tif", "--sigma", 20)
    assert "Wrote out.tif, with 3 pictures." in run.errors
    found = tifffile.imread("out.tif")
    assert found.dtype == pages.dtype
    expected = np.stack([denoised(page, white) for page in pages])
    np.testing.assert_allclose(found, expected if dtype == "f4" else np.clip(expected, 0, white), atol=0.51)
    assert Pictures("beside.tif").count == 3
    run("denoise", "model.h5", "in.tif", "-o", "out.png", fails=1)
    if dtype != "f4":
        assert "out.png: PNG holds only one of the pictures, and there are more; end the name in .tif" in run.errors
    assert not Path("out.png").exists()
    assert check_file("in.tif") == "3 pictures, the first of 23×37 pixels"


def test_pages_may_differ_and_copies_are_left_out_with_a_note(tmp_path):
    colour, deep = numbers(last(COLOUR), "u1", 255), numbers(GREY, "u2", 65535)
    with tifffile.TiffWriter(tmp_path / "p.tif") as writer:
        writer.write(deep)
        writer.write(colour[::2], photometric="rgb")
        writer.write(deep[::2, ::2], subfiletype=1)
    pictures = Pictures(tmp_path / "p.tif")
    assert [note.text for note in pictures.notes] == [
        f"1 of 3 pages of {tmp_path}/p.tif are previews or masks, and left out"
    ]
    write_pictures(tmp_path / "again.tif", pictures)
    first, second = Pictures(tmp_path / "again.tif")
    np.testing.assert_allclose(first.channels, deep[None] / 65535)
    np.testing.assert_allclose(second.channels, np.moveaxis(colour[::2], 2, 0) / 255)


@pytest.mark.parametrize("kind", ["ImageJ", "ImageJ, one directory", "OME", "cut directory"])
def test_stacks_of_microscopes_keep_their_description(tmp_path, kind):
    pages = stack(6).reshape(3, 2, 23, 37)
    path, options = tmp_path / ("p.ome.tif" if kind == "OME" else "p.tif"), {"photometric": "minisblack"}
    metadata = {"axes": "ZCYX", "spacing": 0.5, "unit": "um"} if "ImageJ" in kind else {"axes": "ZCYX"}
    tifffile.imwrite(
        path,
        pages,
        imagej="ImageJ" in kind,
        metadata=metadata,
        truncate="directory" in kind,
        resolution=(5, 5),
        **options,
    )
    if "one" in kind:
        with tifffile.TiffFile(path) as file:
            assert len(file.pages) == 1
    pictures = Pictures(path)
    assert pictures.count == 6
    np.testing.assert_allclose([picture.channels[0] for picture in pictures], pages.reshape(6, 23, 37) / 65535)
    again = tmp_path / "again.tif"
    write_pictures(again, pictures)
    with tifffile.TiffFile(path) as before, tifffile.TiffFile(again) as after:
        if "cut" not in kind:
            assert after.pages.first.description == before.pages.first.description
            assert after.series[0].axes == before.series[0].axes == "ZCYX"
            np.testing.assert_array_equal(after.asarray(), pages)
        assert after.pages.first.resolution == before.pages.first.resolution


@pytest.mark.parametrize("ending", ["gif", "png", "webp"])
def test_all_frames_of_an_animation_are_denoised_with_their_timing(run, ending):
    frames = [Image.fromarray(page) for page in stack(3, "u1", 255)]
    options = {"lossless": True} if ending == "webp" else {}
    times = [100, 200, 300]
    frames[0].save(f"in.{ending}", save_all=True, append_images=frames[1:], duration=times, loop=2, **options)
    clean = list(Pictures(f"in.{ending}"))
    assert [picture.form.milliseconds for picture in clean] == times
    for out in ("out.png", "out.webp", "out.tif"):
        run("denoise", "model.h5", f"in.{ending}", "-o", out, "--sigma", 20)
        assert f"Wrote {out}, with 3 pictures." in run.errors
        assert ("does not keep the timing of the animation" in run.errors) == (out == "out.tif")
        found = list(Pictures(out))
        assert len(found) == 3
        if out != "out.tif":
            assert [picture.form.milliseconds for picture in found] == times
            assert found[0].form.loops == clean[0].form.loops
        if out != "out.webp":
            for before, after in zip(clean, found, strict=True):
                expected = denoised(before.channels[0], 1)
                np.testing.assert_allclose(after.channels[0], np.clip(expected, 0, 1), atol=0.51 / 255)
    run("denoise", "model.h5", f"in.{ending}", "-o", "out.jpg", fails=1)
    assert "JPEG holds only one of the pictures, and there are more; end the name in .png, .webp or .tif" in run.errors


def test_pictures_that_are_not_read_are_counted(tmp_path, run):
    frames = [Image.fromarray(page) for page in stack(3, "u1", 255)]
    frames[0].save("p.mpo", save_all=True, append_images=frames[1:])
    run("denoise", "model.h5", "p.mpo", "-o", "out.png")
    assert "Note: picture 1 of 3 in p.mpo only." in run.errors


def test_a_folder_gives_all_pages_or_says_how_many_it_leaves_out(tmp_path, run):
    Path("pictures").mkdir()
    pages = stack(5)
    tifffile.imwrite("pictures/stack.tif", pages, photometric="minisblack")
    save("pictures/one.png", GREY)
    run("prepare-images", "pictures", "--split", "4,1,1")
    assert "4 for train, 1 for validation, 1 for test" in run.errors
    assert "Note" not in run.errors
    held = [picture for split in ("train", "validation", "test") for picture in ImageSet("images.h5", split).pictures()]
    assert [name for name, _ in held if name != "one.png"] == [f"stack.tif, {page}" for page in range(1, 6)]
    for name, pixels in held:
        expected = numbers(GREY, "u1", 255) / 255 if name == "one.png" else pages[int(name[-1]) - 1] / 65535
        np.testing.assert_allclose(pixels, expected)
    Path("pictures/one.png").unlink()
    run("prepare-images", "pictures", "--split", "2,0,0", "--patches", 4, "--per-image", 50, "-o", "p.h5")
    assert "Note: the last 3 of the pages of stack.tif are left out, as the split needs no more." in run.errors


def test_a_folder_with_numbers_that_need_a_white_says_so(run):
    Path("pictures").mkdir()
    save("pictures/8.png", GREY)
    tifffile.imwrite("pictures/f.tif", numbers(GREY, "f4", 1000))
    run("prepare-images", "pictures", "--split", "2,0,0")
    assert "Skipped: pictures/f.tif has floating-point numbers from" in run.errors
    assert (
        "Note: files are skipped because nothing says which of their numbers stands for white (--white)." in run.errors
    )
    Path("pictures/8.png").unlink()
    run("prepare-images", "pictures", "--split", "1,0,0", "--white", 500, "--force")
    assert (
        "parts of pictures/f.tif are darker than black or brighter than white, and are clipped (--white)" in run.errors
    )
    ((_, pixels),) = ImageSet("images.h5", "train").pictures()
    np.testing.assert_allclose(pixels, np.clip(GREY / 0.5, 0, 1), atol=1e-4)


# -- colours, resolution and orientation ------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "tif", "jpg", "webp", "bmp"])
@pytest.mark.parametrize("form", [Form(), Form(16), Form(12), Form(32, "float")], ids=lambda form: f"{form.depth} bits")
@pytest.mark.parametrize("colour", [False, True])
def test_profile_and_resolution_are_kept_or_said_to_be_lost(run, ending, form, colour):
    if form.depth > 8 and ending not in ("png", "tif")[form.numbers == "float" :]:
        return
    form = Form(form.depth, form.numbers, profile=PROFILE, resolution=(300.0, 150.0, INCH))
    write_picture(f"p.{ending}", Picture(COLOUR if colour else GREY[None], form))
    found = read_picture(f"p.{ending}").form
    lost = left_out(f"p.{ending}", form)
    assert found.profile == (b"" if ending == "bmp" else PROFILE)
    assert ("colour profile" in lost) == (ending == "bmp")
    assert ("resolution" in lost) == (ending == "webp")
    if ending == "webp":
        assert found.resolution is None
    else:
        np.testing.assert_allclose(found.resolution, (300, 150, INCH), rtol=1e-3)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize(("tag", "lost"), [(0x0110, True), (0x0112, False)], ids=["camera", "orientation"])
def test_exif_data_are_said_to_be_lost(tmp_path, ending, tag, lost):
    exif = Image.Exif()
    exif[tag] = "a camera" if lost else 6
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / f"p.{ending}", exif=exif)
    assert ("EXIF" in left_out("out.png", read_picture(tmp_path / f"p.{ending}").form)) == lost


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_of_any_depth_are_turned_upright_once(tmp_path, orientation, rng):
    def turned(pixels):
        image = Image.fromarray(pixels)
        image.getexif()[0x0112] = orientation
        buffer = io.BytesIO()
        image.save(buffer, "PNG", exif=image.getexif())
        return np.asarray(Image.open(buffer).transpose(STEPS[orientation]) if orientation > 1 else image)

    low = rng.integers(0, 256, (5, 8, 3), np.uint8)
    expected = np.moveaxis(turned(low), 2, 0)
    assert tiff.upright(np.moveaxis(low, 2, 0), orientation).tolist() == expected.tolist()
    tags = [(274, 3, 1, orientation, True)]
    for name, pixels in {"8.tif": low, "16.tif": low * np.uint16(257), "float.tif": (low / 255).astype("f4")}.items():
        options = {"photometric": "rgb", "extratags": tags, "resolution": (100, 200), "resolutionunit": INCH}
        tifffile.imwrite(tmp_path / name, pixels, **options)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(low).save(tmp_path / "8.png", exif=exif, dpi=(100, 200))
    with open(tmp_path / "16.png", "wb") as file:
        png.Writer(8, 5, greyscale=False, bitdepth=16).write(file, (low * np.uint16(257)).reshape(5, -1).tolist())
    whole, small = (tmp_path / "16.png").read_bytes(), (tmp_path / "8.png").read_bytes()
    # The chunks that say so come from the other file.
    start, resolution = small.index(b"eXIf") - 4, small.index(b"pHYs") - 4
    length = 12 + struct.unpack(">I", small[start : start + 4])[0]
    chunks = small[start : start + length] + small[resolution : resolution + 21]
    (tmp_path / "16.png").write_bytes(whole[:33] + chunks + whole[33:])
    for name in ("8.tif", "16.tif", "float.tif", "8.png", "16.png"):
        picture = read_picture(tmp_path / name)
        np.testing.assert_allclose(picture.channels, expected / 255, atol=1e-7, err_msg=name)
        sides = (100, 200) if orientation < 5 else (200, 100)
        np.testing.assert_allclose(picture.form.resolution[:2], sides, rtol=1e-3, err_msg=name)
        again = tmp_path / f"again{Path(name).suffix}"
        write_picture(again, picture, overwrite=True)
        np.testing.assert_allclose(read_picture(again).channels, picture.channels, atol=1e-7, err_msg=name)


STEPS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def test_a_png_keeps_its_definition_of_colours(run):
    gamma = struct.pack(">I", 100000)
    for name, depth in (("8.png", 8), ("16.png", 16)):
        write_picture(name, Picture(COLOUR, Form(depth, chunks={"gAMA": gamma})))
        run("denoise", "model.h5", name, "-o", f"out-{name}")
        assert "Note" not in run.errors
        assert read_picture(f"out-{name}").form.chunks == {"gAMA": gamma}
        with Image.open(f"out-{name}") as image:
            assert image.info["gamma"] == 1.0
        run("denoise", "model.h5", name, "-o", f"out-{depth}.tif")
        assert f"Note: out-{depth}.tif does not keep the definition of its colours (gAMA)." in run.errors


def test_a_profile_for_other_colours_is_not_passed_on(run):
    cmyk = Image.fromarray(numbers(last(COLOUR), "u1", 255)).convert("CMYK")
    cmyk.save("in.jpg", icc_profile=PROFILE[:16] + b"CMYK" + PROFILE[20:])
    run("denoise", "model.h5", "in.jpg", "-o", "out.jpg")
    assert "Note: in.jpg is converted from CMYK to red, green and blue." in run.errors
    assert "Note: the colour profile of in.jpg is for CMYK" in run.errors
    assert not read_picture("out.jpg").form.profile


def test_a_form_survives_as_a_text():
    form = Form(
        12,
        white=3000.0,
        profile=PROFILE,
        resolution=(300.0, 300.0, INCH),
        tags=((270, 2, 2, b"a\0"), (33550, 12, 3, (1.5, 2.0, 0.0))),
    )
    assert Form.from_json(form.to_json()) == form


# -- what files claim -------------------------------------------------------------------------------------------------


def test_sizes_are_not_believed(tmp_path):
    head = (
        b"BM" + struct.pack("<IHHI", 0, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 3000000, 2000000, 1, 24, *[0] * 6)
    )
    (tmp_path / "p.bmp").write_bytes(head + bytes(20000))
    with pytest.raises(FileError, match=r"p.bmp is damaged: it is shorter than its header says"):
        read_picture(tmp_path / "p.bmp")
    for name, options in {"p.tif": {}, "z.tif": {"compression": "zlib"}, "f.tif": {"dtype": "f4"}}.items():
        tifffile.imwrite(tmp_path / name, np.zeros((60, 70), options.pop("dtype", "u2")), **options)
        data = (tmp_path / name).read_bytes()
        for code in (256, 257):  # width and length
            place = data.index(struct.pack("<HHI", code, 4, 1)) if struct.pack("<HHI", code, 4, 1) in data else None
            place = data.index(struct.pack("<HHI", code, 3, 1)) if place is None else place
            lie = struct.pack("<HHII", code, 4, 1, 2_000_000)
            (tmp_path / name).write_bytes(data[:place] + lie + data[place + 12 :])
            with pytest.raises(FileError, match=r"looks like a file made to fill the memory|damaged|too large"):
                read_picture(tmp_path / name)


def test_missing_parts_of_a_tiff_are_not_made_up(tmp_path):
    path = tmp_path / "p.tif"
    tifffile.imwrite(path, stack(3), photometric="minisblack", rowsperstrip=4, compression="zlib", metadata=None)
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        last_page, counts = file.pages[-1], file.pages[1].tags[279].valueoffset
        chain = file.pages[0].offset + 2 + 12 * len(file.pages[0].tags)
    for place, said in ((counts, "parts of its pixels are missing"), (chain, "leads to nothing")):
        for wrong in (0, 2**31):
            if (place, wrong) == (chain, 0):  # a stack of one page
                continue
            path.write_bytes(whole[:place] + struct.pack("<I", wrong) + whole[place + 4 :])
            with pytest.raises(FileError, match=said):
                list(Pictures(path))
    path.write_bytes(whole[: last_page.dataoffsets[-1] + 1])
    with pytest.raises(FileError, match="damaged"):
        list(Pictures(path))


@pytest.mark.parametrize("code", [258, 259, 262, 273, 277, 279])
def test_a_tag_that_matters_is_not_passed_over(tmp_path, code):
    path = tmp_path / "p.tif"
    tifffile.imwrite(path, stack(2), photometric="minisblack", compression="zlib", metadata=None)
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        place = file.pages[1].tags[code].offset
    for kind, count in ((99, 1), (3, 2**31 - 1), (16, 2**29)):
        path.write_bytes(whole[: place + 2] + struct.pack("<HI", kind, count) + whole[place + 8 :])
        with pytest.raises(FileError, match=rf"damaged: the tag {code} of page 2 cannot be read"):
            list(Pictures(path))


def test_a_description_of_more_pages_than_there_are_is_noted(tmp_path):
    path = tmp_path / "p.tif"
    tifffile.imwrite(path, stack(6), imagej=True, truncate=True)
    path.write_bytes(path.read_bytes()[:-100])
    pictures = Pictures(path)
    assert pictures.count == 1
    assert pictures.notes[0].text == f"page 1 of 6 in {path} only: the file is too short for the others"
    np.testing.assert_allclose(next(iter(pictures)).channels[0], stack(6)[0] / 65535)


def test_kinds_that_are_not_read_are_said(tmp_path, monkeypatch):
    cases = {
        "complex": ({"data": GREY.astype("c8")}, "numbers of a kind that is not read, such as complex ones"),
        "cmyk": ({"data": np.zeros((9, 7, 4), "u2"), "photometric": "separated"}, "of the kind SEPARATED"),
        "volume": (
            {"data": np.zeros((16, 16, 16), "u2"), "volumetric": True, "tile": (16, 16, 16)},
            "save the volume as",
        ),
    }
    for name, (options, said) in cases.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", **options)
        with pytest.raises(FileError, match=said):
            read_picture(tmp_path / f"{name}.tif")
    tifffile.imwrite(tmp_path / "lzw.tif", numbers(GREY, "u2", 65535), compression="lzw")
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(
        MissingLibraryError, match=r"imagecodecs, which is not installed: pip install 'cuista\[images\]'"
    ):
        read_picture(tmp_path / "lzw.tif")
    save(tmp_path / "plain.tif", GREY, compression="tiff_lzw")
    assert read_picture(tmp_path / "plain.tif").depth == 8  # which Pillow reads


@pytest.mark.parametrize(("magic", "ending"), [(b"P6", "ppm"), (b"P3", "ppm")])
def test_depth_that_pillow_cuts_off_is_noted(tmp_path, magic, ending):
    values = numbers(last(COLOUR), ">u2", 65535)
    body = values.tobytes() if magic == b"P6" else " ".join(map(str, values.ravel())).encode()
    (tmp_path / "p.ppm").write_bytes(magic + b"\n# a comment\n37 23\n65535\n" + body)
    assert "has 16 bits a channel, of which 8 are read" in Pictures(tmp_path / "p.ppm").notes[0].text
