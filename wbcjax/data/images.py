"""Image files in: one decoder for every source, which refuses damaged files by name.

Images come out as RGB, uint8, ``(height, width, 3)``, with the pixels as stored (an EXIF orientation is not
applied, since boxes and masks refer to the stored pixels).
"""

import hashlib
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from wbcjax.console import progress_console
from wbcjax.errors import DataError
from wbcjax.files import replacing
from wbcjax.typing import Image, Images, Size, UInt8

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

MAX_PIXELS = 2**27
"""Of one image; a header that states more, as that of a decompression bomb, is refused before memory is taken."""

_FORMATS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WebP": (".webp",),
}


def _format(data: bytes) -> str | None:
    """The format that the first bytes of a file promise."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:2] == b"BM":
        return "BMP"
    if data[:4] in (b"II*\0", b"MM\0*"):
        return "TIFF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    return None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """``(marker, offset of its payload)`` of each JPEG segment up to the start of the compressed scan
    (0xDA)."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        yield marker, at + 4
        if marker == 0xDA:
            return
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _stated_size(data: bytes, kind: str | None) -> Size | None:
    """(height, width) in the header of a JPEG, PNG or BMP; None in other formats, or where there is none."""
    if kind == "PNG" and len(data) >= 24 and data[12:16] == b"IHDR":
        width, height = struct.unpack(">II", data[16:24])
        return height, width
    if kind == "BMP" and len(data) >= 26:
        width, height = struct.unpack("<ii", data[18:26])
        return abs(height), abs(width)
    if kind == "JPEG":
        for marker, at in _jpeg_segments(data):
            # SOF0..SOF15 hold the size; C4, C8 and CC in that range are tables.
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 5 <= len(data):
                height, width = struct.unpack(">HH", data[at + 1 : at + 5])
                return height, width
    return None


def _check_size(path: Path, size: Size) -> Size:
    """``size``, of an image that is to be decoded.

    Raises:
      DataError: it has no pixel, or too many.
    """
    height, width = size
    if height * width == 0:
        raise DataError(f"{path}: damaged, its header states {width}×{height} pixels; download it again or delete it")
    if height * width > MAX_PIXELS:
        raise DataError(f"{path}: its header states {width}×{height} pixels, more than the {MAX_PIXELS:,} that are "
                        "read; shrink it or delete it")
    return size


def _is_truncated(data: bytes, kind: str) -> bool:
    """True when the end marker of a JPEG or PNG is missing (decoders may fill the rest with grey)."""
    if kind == "JPEG":
        scan = [offset for marker, offset in _jpeg_segments(data) if marker == 0xDA]
        # In compressed data 0xFF is always followed by 0x00, so this is the end marker and no chance pair.
        return not scan or data.rfind(b"\xff\xd9", scan[0]) < 0
    return kind == "PNG" and data.rfind(b"IEND") < 0


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise DataError(f"{path}: is a folder, not an image file; name one file")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such image; check the path, or download the data set again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions and the disk") from None
    if not data:
        raise DataError(f"{path}: the file is empty (0 bytes); download it again or delete it")
    return data


def image_size(path: Path) -> Size:
    """(height, width) of an image file, from its header where the format is JPEG or PNG.

    Raises:
      DataError: the file is missing, empty or no image, or states no pixel or more than ``MAX_PIXELS``.
    """
    data = _read(Path(path))
    kind = _format(data)
    size = _stated_size(data, kind) if kind in ("JPEG", "PNG") else None
    return read_image(Path(path), strict=False).shape[:2] if size is None else _check_size(Path(path), size)


def read_image(path: Path, *, strict: bool = True) -> Image:
    """Decode one image file to RGB.

    Args:
      path: the file.
      strict: refuse files of which the extension contradicts the content, and images that are grey, have an
        alpha channel or more than 8 bits a channel. False converts them: grey is repeated, alpha dropped, 16
        bits scaled.

    Raises:
      DataError: missing, empty, truncated or undecodable, of more than ``MAX_PIXELS``, and in strict mode one of the
        above.
    """
    path = Path(path)
    data = _read(path)
    kind = _format(data)
    if kind is None:
        raise DataError(f"{path}: not an image (no JPEG, PNG, BMP, TIFF or WebP header); replace or delete it")
    if _is_truncated(data, kind):
        raise DataError(f"{path}: truncated {kind} ({len(data)} bytes, no end marker); download it again or delete it")
    if strict and path.suffix.lower() not in _FORMATS[kind]:
        raise DataError(
            f"{path}: is a {kind} file named {path.suffix or 'without extension'}; rename it to "
            f"{path.stem}{_FORMATS[kind][0]}, or read with strict=False"
        )
    if size := _stated_size(data, kind):
        _check_size(path, size)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise DataError(f"{path}: damaged {kind}, cannot be decoded; download it again or delete it")
    return _to_rgb(pixels, path, strict)


def _to_rgb(pixels: np.ndarray, path: Path, strict: bool) -> np.ndarray:
    """RGB uint8 of what OpenCV decoded: grey, BGR or BGRA, 8 bits a channel or more."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if strict and (channels != 3 or pixels.dtype != np.uint8):
        what = {1: "a grey image", 4: "an image with an alpha channel"}.get(channels, f"an image of {pixels.dtype}")
        raise DataError(f"{path}: {what}, expected 8-bit RGB; convert it, or read with strict=False")
    if pixels.dtype == np.uint16:
        pixels = (pixels // 257).astype(np.uint8)
    if pixels.dtype != np.uint8 or channels not in (1, 3, 4):
        raise DataError(f"{path}: {channels} channels of {pixels.dtype}; convert it to 8-bit RGB")
    code = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}[channels]
    return cv2.cvtColor(pixels, code)


def resize(image: Image, size: Size) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """Resize to (height, width): area averaging when shrinking, linear when growing."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    shrink = height <= image.shape[0] and width <= image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)


def _cache_key(paths: Sequence[Path], size: Size | None, strict: bool, fit: Callable) -> str:
    digest = hashlib.sha256(repr((size, strict, fit.__qualname__)).encode())
    for path in paths:
        try:
            stat = path.stat()
        except FileNotFoundError:
            raise DataError(f"{path}: no such image; check the path, or download the data set again") from None
        digest.update(f"{path.resolve()}\0{stat.st_mtime_ns}\0{stat.st_size}\n".encode())
    return digest.hexdigest()[:20]


def load_images(
    paths: Sequence[Path],
    size: Size | None = None,
    *,
    fit: Callable[[Image, Size], Image] = resize,
    strict: bool = True,
    cache_dir: Path | None = None,
    progress: bool = False,
) -> Images:
    """Decode many files into one array, on all cores.

    Args:
      paths: the files, in the order of the result.
      size: (height, width) to resize to; None needs all files to be of one size already.
      fit: the function (image, size) that does it.
      strict: as in ``read_image``.
      cache_dir: keep the result there as one ``.npy`` file and map it into memory (read-only) the next time.
        Its name depends on every path, modification time and file size, so a changed file is decoded again.
      progress: show a progress bar.

    Raises:
      DataError: the first damaged or odd file, or one of another size than the first.
    """
    paths = [Path(p) for p in paths]
    if not paths:
        height, width = size or (0, 0)
        return np.empty((0, height, width, 3), np.uint8)
    if cache_dir is None:
        return _decode(paths, size, fit, strict, progress, lambda shape: np.empty(shape, np.uint8))

    cache_dir = Path(cache_dir).expanduser()
    target = cache_dir / f"images-{_cache_key(paths, size, strict, fit)}.npy"
    if not target.exists():
        with replacing(target) as temporary:
            array = _decode(
                paths,
                size,
                fit,
                strict,
                progress,
                lambda shape: np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape),
            )
            array.flush()
            del array
    return np.load(target, mmap_mode="r", allow_pickle=False)


def _decode(paths, size, fit, strict, progress, allocate) -> np.ndarray:
    from rich.progress import track

    first = read_image(paths[0], strict=strict)
    shape = size or first.shape[:2]
    out = allocate((len(paths), *shape, 3))

    def decode(index: int) -> None:
        image = read_image(paths[index], strict=strict)
        if size is None and image.shape[:2] != shape:
            raise DataError(
                f"{paths[index]}: {image.shape[1]}×{image.shape[0]} pixels, while {paths[0].name} has "
                f"{shape[1]}×{shape[0]}; give a size to resize to"
            )
        out[index] = fit(image, shape)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = pool.map(decode, range(len(paths)))
        try:
            for _ in track(
                futures,
                "Decoding images",
                total=len(paths),
                disable=not progress,
                console=progress_console(),
            ):
                pass
        except DataError:
            pool.shutdown(cancel_futures=True)
            raise
    return out
