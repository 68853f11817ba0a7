"""Photos of every kind → upright RGB."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from speaq.data import DataError
from speaq.data.images import read_image, read_size

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


@pytest.mark.parametrize("orientation", range(9))
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int) -> None:
    """Pillow's own upright version is the judge; 0 is not an orientation and means upright."""
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture().save(path, exif=exif)
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    np.testing.assert_array_equal(read_image(path), expected)
    assert read_size(path) == expected.shape[:2]


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
