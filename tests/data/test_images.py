"""One decoder for all sources: what it accepts, and the one line it gives for everything else."""

import os

import cv2
import numpy as np
import pytest

from wbcjax.data.images import image_size, load_images, read_image, resize
from wbcjax.errors import DataError


@pytest.fixture
def picture():
    """A smooth colour image, 30 high and 40 wide, with distinct channels."""
    y, x = np.mgrid[0:30, 0:40]
    return np.stack([4 * x, 5 * y, 100 + x + y], axis=-1).astype(np.uint8)


def write(path, rgb, suffix=None):
    """Write an RGB (or grey, or RGBA) array in the format of ``suffix``, by default the path's."""
    code = {2: None, 3: cv2.COLOR_RGB2BGR}[rgb.ndim]
    if rgb.ndim == 3 and rgb.shape[2] == 4:
        code = cv2.COLOR_RGBA2BGRA
    encoded = rgb if code is None else cv2.cvtColor(rgb, code)
    ok, data = cv2.imencode(suffix or path.suffix, encoded)
    assert ok
    path.write_bytes(data.tobytes())
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".PNG"])
def test_lossless_formats_come_back_as_rgb(tmp_path, picture, suffix):
    path = write(tmp_path / f"a{suffix}", picture, suffix.lower())
    np.testing.assert_array_equal(read_image(path), picture)
    assert image_size(path) == (30, 40)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_come_back_as_rgb(tmp_path, picture, suffix):
    path = write(tmp_path / f"a{suffix}", picture)
    assert np.abs(read_image(path).astype(int) - picture).mean() < 4
    assert image_size(path) == (30, 40)


def test_jpeg_with_thumbnail_is_not_taken_for_complete_when_cut(tmp_path, picture):
    """An embedded JPEG brings an end marker of its own; only one after the scan counts."""
    data = write(tmp_path / "a.jpg", picture).read_bytes()
    thumbnail = b"\xff\xd8\xff\xd9"
    segment = b"\xff\xe1" + (2 + len(thumbnail)).to_bytes(2, "big") + thumbnail
    whole = data[:2] + segment + data[2:]
    path = tmp_path / "b.jpg"
    path.write_bytes(whole)
    assert read_image(path).shape == (30, 40, 3)
    assert image_size(path) == (30, 40)
    path.write_bytes(whole[:-40])
    with pytest.raises(DataError, match=r"b\.jpg: truncated JPEG"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("strict", [True, False])
def test_truncated_file_is_refused(tmp_path, picture, suffix, share, strict):
    path = write(tmp_path / f"a{suffix}", np.tile(picture, (4, 4, 1)))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=rf"a\{suffix}: (truncated|damaged) .*(download it again|delete it)"):
        read_image(path, strict=strict)


def test_missing_empty_folder_and_text(tmp_path):
    with pytest.raises(DataError, match=r"none\.jpg: no such image; check the path"):
        read_image(tmp_path / "none.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(DataError, match=r"empty\.jpg: the file is empty \(0 bytes\); download it again"):
        read_image(tmp_path / "empty.jpg")
    with pytest.raises(DataError, match="is a folder"):
        read_image(tmp_path)
    (tmp_path / "text.jpg").write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"text\.jpg: not an image .*replace or delete"):
        read_image(tmp_path / "text.jpg")
    (tmp_path / "noise.png").write_bytes(b"\x89PNG\r\n\x1a\n" + os.urandom(200) + b"IEND")
    with pytest.raises(DataError, match=r"noise\.png: damaged PNG"):
        read_image(tmp_path / "noise.png")


def test_png_named_jpg(tmp_path, picture):
    path = write(tmp_path / "a.jpg", picture, ".png")
    with pytest.raises(DataError, match=r"a\.jpg: is a PNG file named \.jpg; rename it to a\.png"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, strict=False), picture)


def test_grey_alpha_and_sixteen_bits(tmp_path, picture):
    grey = write(tmp_path / "grey.png", picture[..., 0])
    with pytest.raises(DataError, match=r"grey\.png: a grey image, expected 8-bit RGB; convert it"):
        read_image(grey)
    np.testing.assert_array_equal(read_image(grey, strict=False), np.repeat(picture[..., :1], 3, axis=2))

    alpha = write(tmp_path / "alpha.png", np.dstack([picture, np.full((30, 40), 128, np.uint8)]))
    with pytest.raises(DataError, match=r"alpha\.png: an image with an alpha channel"):
        read_image(alpha)
    np.testing.assert_array_equal(read_image(alpha, strict=False), picture)

    deep = write(tmp_path / "deep.png", picture.astype(np.uint16) * 257)
    with pytest.raises(DataError, match=r"deep\.png: an image of uint16"):
        read_image(deep)
    np.testing.assert_array_equal(read_image(deep, strict=False), picture)


def test_resize_shrinks_by_area_and_keeps_the_mean(picture):
    small = resize(picture, (15, 20))
    expected = picture.reshape(15, 2, 20, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - expected).max() <= 0.5
    assert resize(picture, (60, 50)).shape == (60, 50, 3)
    assert resize(picture, (30, 40)) is picture


def test_load_images_keeps_order_and_caches(tmp_path, picture):
    paths = [write(tmp_path / f"{i}.png", np.roll(picture, i, axis=1)) for i in range(12)]
    plain = load_images(paths[::-1])
    np.testing.assert_array_equal(plain, [read_image(p) for p in paths[::-1]])

    cache = tmp_path / "cache"
    first = load_images(paths, (15, 20), cache_dir=cache)
    np.testing.assert_array_equal(first, [resize(read_image(p), (15, 20)) for p in paths])
    files = sorted(cache.iterdir())
    assert [f.suffix for f in files] == [".npy"]
    again = load_images(paths, (15, 20), cache_dir=cache)
    assert isinstance(again, np.memmap) and not again.flags.writeable
    np.testing.assert_array_equal(again, first)
    assert sorted(cache.iterdir()) == files

    write(paths[3], picture[::-1])
    os.utime(paths[3], ns=(1, 1))
    changed = load_images(paths, (15, 20), cache_dir=cache)
    np.testing.assert_array_equal(changed[3], resize(np.ascontiguousarray(picture[::-1]), (15, 20)))
    assert len(list(cache.iterdir())) == 2


def test_load_images_leaves_nothing_half_written(tmp_path, picture):
    paths = [write(tmp_path / f"{i}.png", picture) for i in range(5)]
    paths[3].write_bytes(paths[3].read_bytes()[:-30])
    with pytest.raises(DataError, match=r"3\.png: truncated"):
        load_images(paths, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(DataError, match=r"gone\.png: no such image"):
        load_images([*paths, tmp_path / "gone.png"], cache_dir=tmp_path / "cache")


def test_load_images_needs_one_size(tmp_path, picture):
    paths = [write(tmp_path / "a.png", picture), write(tmp_path / "b.png", picture[:20])]
    with pytest.raises(DataError, match=r"b\.png: 40×20 pixels, while a\.png has 40×30; give a size"):
        load_images(paths)
    assert load_images(paths, (10, 10)).shape == (2, 10, 10, 3)
    assert load_images([], (10, 10)).shape == (0, 10, 10, 3)


def test_real_images_are_whole(data_root):
    folder = data_root / "BCCD_Dataset" / "BCCD" / "JPEGImages"
    paths = sorted(folder.iterdir())[:20]
    assert load_images(paths).shape == (20, 480, 640, 3)
    assert {image_size(p) for p in paths} == {(480, 640)}
