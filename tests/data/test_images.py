"""Photos of every kind → upright RGB."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from speaq.data import DataError, images
from speaq.data.images import FORMATS, read_image, read_photo, read_size

ORIENTATION = 0x0112


def picture() -> Image.Image:
    """4 x 2 (width x height), a red left half and a dark right half."""
    pixels = np.full((2, 4, 3), 40, np.uint8)
    pixels[:, :2] = (200, 0, 0)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "L", "P", "1", "LA", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.jpg"
    picture().convert(mode).save(path, format="TIFF")
    image = read_image(path)
    assert image.shape == (2, 4, 3)
    assert image.dtype == np.uint8
    assert read_size(path) == (2, 4)


def test_transparency_is_ignored(tmp_path: Path) -> None:
    transparent = picture().convert("RGBA")
    transparent.putalpha(0)
    transparent.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.asarray(picture()))


def test_16_bits_keep_their_brightness(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", range(9))
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int, suffix: str) -> None:
    """Pillow's own upright version is the judge; 0 is not an orientation and means upright."""
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture().save(path, exif=exif)
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    np.testing.assert_array_equal(read_image(path), expected)
    assert read_size(path) == expected.shape[:2]


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "I;16"])
def test_a_tiff_of_any_layout_is_turned_once(tmp_path: Path, mode: str) -> None:
    """Pillow maps these into memory, and takes their rows for columns (13.0)."""
    image = Image.new(mode, (4, 2), 0)
    image.paste(Image.new(mode, (2, 2), 255 if mode == "L" else 65535 if mode == "I;16" else (255, 255, 255, 255)))
    image.save(tmp_path / "a.tif")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image.save(tmp_path / "b.tif", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif"), np.rot90(read_image(tmp_path / "a.tif"), -1))
    assert read_photo(tmp_path / "b.tif", 1, large=1).pixels.shape == (2, 1, 3)


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xd8\xff\xe0", b"GIF89a"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for read in (read_image, read_size):
        with pytest.raises(DataError, match=r"a\.jpg: ") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_missing_and_truncated_photos_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.jpg: no such file"):
        read_image(tmp_path / "a.jpg")
    path = tmp_path / "b.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DataError, match=r"b\.jpg: cannot be decoded \(image file is truncated"):
        read_image(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_500, 60_000])  # below and above the size that Pillow itself refuses
def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path, side: int) -> None:
    path = tmp_path / "a.png"
    picture().save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    for read in (read_image, read_size):
        with pytest.raises(DataError, match=r"a\.png: .*(at most|exceeds limit)"):
            read(path)


def smooth_photo(path: Path, size: tuple[int, int]) -> Path:
    """A gradient of width × height pixels."""
    ramp = np.add.outer(np.linspace(0, 120, size[1]), np.linspace(0, 120, size[0])).astype(np.uint8)
    Image.fromarray(np.stack((ramp, ramp[::-1], ramp[:, ::-1]), axis=-1)).save(path, quality=95)
    return path


def test_the_decoder_halves_what_stays_large_enough(tmp_path: Path) -> None:
    path = smooth_photo(tmp_path / "a.jpg", (641, 400))
    whole, half, quarter = (read_image(path, side) for side in (201, 200, 100))
    np.testing.assert_array_equal(whole, read_image(path))
    assert half.shape == (200, 321, 3)
    assert quarter.shape == (100, 161, 3)
    expected = np.asarray(Image.fromarray(whole).resize((321, 200), Image.Resampling.BOX)).astype(int)
    assert np.abs(half.astype(int) - expected).mean() < 2


def test_only_jpeg_is_reduced(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture().save(path)
    np.testing.assert_array_equal(read_image(path, 1), read_image(path))


RAMP = np.linspace(0, 1, 12).reshape(3, 4)
GREYS = np.rint(RAMP * 255)


@pytest.mark.parametrize(
    ("scale", "kind"),
    [
        *((1, kind) for kind in ("float32", "float64")),
        *((255, kind) for kind in ("float32", "int32", "uint16", "uint8", "int16")),
        *((4095, kind) for kind in ("uint16", "int16", "int32")),  # of 12 bits
        *((65535, kind) for kind in ("float32", "int32", "uint16")),
    ],
)
@pytest.mark.parametrize("suffix", [".tif", ""])
def test_values_of_every_type_keep_their_brightness(tmp_path: Path, scale: int, kind: str, suffix: str) -> None:
    values = (RAMP * scale).astype(kind)
    expected = np.rint(values.astype(np.float64) * 255 / scale)
    if not suffix:
        np.testing.assert_array_equal(read_photo(values, 10).pixels[..., 1], expected)
        return
    Image.fromarray(values if kind not in ("float64", "int16") else values.astype(kind[:-2] + "32")).save(
        tmp_path / "a.tif"
    )
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 2], expected)
    assert np.abs(expected - GREYS).max() <= 1


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.float32([[0.0, np.nan]]), "NaN or infinite"),
        (np.float32([[0.0, np.inf]]), "NaN or infinite"),
        (np.float32([[0.0, 1.7]]), "0 to 1.7: neither a range of 0 to 1 nor one of 0 to 255"),
        (np.float32([[-0.5, 0.5]]), "float32 pixels from -0.5 to 0.5"),
        (np.int32([[-3, 200]]), "int32 pixels from -3 to 200"),
        (np.int32([[0, 70_000]]), "from 0 to 70000, which lie in none of"),
    ],
)
def test_values_of_no_known_range_are_refused_by_name(tmp_path: Path, values: Any, reason: str) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=reason) as refused:
        read_image(tmp_path / "a.tif")
    assert str(refused.value).startswith(f"{tmp_path / 'a.tif'}: mode ")
    with pytest.raises(DataError, match=reason):
        read_photo(values, 10)


@pytest.mark.parametrize("overshoot", [1e-6, 1 / 600])
def test_rounding_beyond_the_range_is_forgiven(overshoot: float) -> None:
    values = np.float32([[-overshoot, 0.5, 1 + overshoot]])
    assert read_photo(values, 10).pixels[0, :, 0].tolist() == [0, 128, 255]


def deep_png(path: Path, values: NDArray[np.uint16]) -> Path:
    """A PNG of 16-bit RGB, which Pillow cannot write. [h, w, 3]"""

    def chunk(name: bytes, content: bytes) -> bytes:
        body = name + content
        return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    size = values.shape[1].to_bytes(4, "big") + values.shape[0].to_bytes(4, "big")
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = (chunk(b"IHDR", size + b"\x10\x02\0\0\0"), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def test_colours_of_16_bits_are_read_where_their_upper_half_says_something(tmp_path: Path) -> None:
    values = np.uint16([[[0, 257, 65535], [256 * 7, 256 * 70, 256 * 200]]])
    assert read_image(deep_png(tmp_path / "a.png", values)).tolist() == [[[0, 1, 255], [7, 70, 200]]]
    with pytest.raises(DataError, match=r"a\.png: its colours have 16 bits and are all below 4096"):
        read_image(deep_png(tmp_path / "a.png", values >> 8))


@pytest.mark.parametrize("suffix", [".gif", ".jfif", ".WEBP", ".bmp", ".Tiff", ".avif", ".ppm", ".HEIC"])
def test_formats_that_are_read(tmp_path: Path, suffix: str) -> None:
    if suffix == ".avif" and "AVIF" not in FORMATS:
        pytest.skip("this Pillow was built without AVIF")
    if suffix == ".HEIC" and "HEIF" not in FORMATS:
        pytest.skip("needs pillow-heif")
    path = tmp_path / f"a{suffix}"
    flat = np.full((32, 48, 3), (200, 120, 40), np.uint8)
    Image.fromarray(flat).save(path)
    assert np.abs(read_image(path).astype(int) - flat).max() <= 8
    assert read_size(path) == (32, 48)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jpg", b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "HEIC, which cannot be read here|cannot be decoded"),
        ("a.psd", b"8BPS\0\x01" + bytes(30), "a Photoshop file; save it as JPEG or PNG"),
        ("a.jxl", b"\xff\x0a" + bytes(30), "JPEG XL; save it"),
        ("a.DNG", b"II*\0", "a camera's raw file"),
        ("a.tif", b"II*\0" + bytes(30), "a TIFF of a pixel layout that Pillow does not read|cannot be decoded"),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: ({reason})"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_a_large_photo_is_reduced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, orientation: int
) -> None:
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    with Image.open(smooth_photo(tmp_path / "whole.jpg", (640, 400))) as photo:
        photo.save(path, exif=exif)
    whole = read_image(path)
    monkeypatch.setattr(images, "LARGE", 640 * 400)
    np.testing.assert_array_equal(read_photo(path, 100).pixels, whole)
    monkeypatch.setattr(images, "LARGE", 640 * 400 - 1)
    small = read_photo(path, 100)
    assert small.size_hw == whole.shape[:2]
    assert small.pixels.shape[:2] == tuple(side // 4 for side in small.size_hw)
    expected = np.asarray(Image.fromarray(whole).reduce(4)).astype(int)
    assert np.abs(small.pixels.astype(int) - expected).mean() < 2


def test_a_limit_of_pixels_is_kept(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    assert read_photo(tmp_path / "a.png", 10, max_pixels=8).size_hw == (2, 4)
    for source in (tmp_path / "a.png", picture(), np.asarray(picture())):
        with pytest.raises(DataError, match="4 x 2 pixels, at most 7 are decoded"):
            read_photo(source, 10, max_pixels=7)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_photos_are_the_same_from_a_file_an_image_and_an_array(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture().save(path, exif=exif)
    wanted = read_image(path)
    with Image.open(path) as opened:
        sources = (
            path,
            str(path),
            opened,
            wanted,
            wanted.astype(np.float32) / 255,
            np.dstack((wanted, wanted[..., :1])),
        )
        for source in sources:
            photo = read_photo(source, 10)
            np.testing.assert_array_equal(photo.pixels, wanted)
            assert photo.size_hw == (4, 2)
    grey = np.uint8([[0, 200]])
    for array in (grey, grey[..., None], grey / 255, grey > 0):
        assert read_photo(array, 10).pixels[0, 0].tolist() == [0, 0, 0]
    for odd in (np.zeros((2, 2, 2)), np.zeros((3, 8, 8)), np.zeros(3), np.zeros((0, 4, 3)), np.array([["a"]])):
        with pytest.raises(DataError, match="picture: "):
            read_photo(odd, 10)
