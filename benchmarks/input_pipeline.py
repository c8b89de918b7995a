"""Image files to augmented batches: our two paths against a PyTorch DataLoader and a plain OpenCV loop.

    python benchmarks/input_pipeline.py [--write] [--force] [--rounds N] [--files DIR] [--images N] [--size H W]

A call is one pass over all images, in batches of 32, shuffled, decoded, resized and augmented (flips, rotation, shift,
shear, zoom, brightness, contrast, saturation, hue, stain); nothing is done with the batches. Everyone decodes with
OpenCV. Two cases:

- ``later pass``: what an epoch costs once a run is under way. The DataLoader, the loop and ``grain`` decode again;
  ``device-resident`` and ``torch in memory`` decoded before. ``torch in memory`` augments whole batches of decoded
  tensors: what one writes in PyTorch for data that fits in memory.
- ``first pass``: decoding included for all; ``cached`` finds the decoded images of an earlier run on the disk.

The baseline is the faster DataLoader. Files are drawn (``wbcjax.data.synthetic``) into a temporary folder unless
``--files`` names a folder of images.
"""

import functools
import statistics
import tempfile
from pathlib import Path

import cv2
import jax
import numpy as np
import torch
from common import Case, arguments, interleave, report
from torch_augment import augment_opencv, augment_torch

from wbcjax.config import AugmentConfig
from wbcjax.data.augment import augment
from wbcjax.data.device import DeviceStream, fetch
from wbcjax.data.grain_pipeline import grain_batches
from wbcjax.data.images import IMAGE_SUFFIXES, load_images, resize
from wbcjax.data.synthetic import draw

CONFIG = AugmentConfig()
BATCH = 32


def write_files(folder: Path, count: int) -> list[Path]:
    """``count`` smears of 320×240, as JPEG; 32 different ones."""
    images = draw(32, size=(240, 320), seed=0).images
    paths = [folder / f"{i}.jpeg" for i in range(count)]
    for i, path in enumerate(paths):
        cv2.imwrite(str(path), images[i % 32][..., ::-1])
    return paths


def decode(path: Path, size) -> np.ndarray:
    return resize(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB), size)


class TorchFiles(torch.utils.data.Dataset):
    """Decodes and augments one image at a time, in the loader's workers."""

    def __init__(self, paths, size):
        self.paths, self.size = paths, size

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image = torch.from_numpy(decode(self.paths[index], self.size)).permute(2, 0, 1).float() / 255
        return augment_torch(image[None], CONFIG)[0], 0


def one_thread(_):
    cv2.setNumThreads(1)


def torch_loader(paths, size, workers):
    loader = torch.utils.data.DataLoader(
        TorchFiles(paths, size), BATCH, shuffle=True, drop_last=True, num_workers=workers,
        worker_init_fn=one_thread, persistent_workers=workers > 0, multiprocessing_context="spawn" if workers else None,
    )

    def one_pass():
        for images, _ in loader:
            last = images
        return last.numpy()

    return one_pass


def torch_memory(images):
    images = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).contiguous()

    def one_pass():
        for rows in torch.randperm(len(images)).split(BATCH):
            if len(rows) == BATCH:
                last = augment_torch(images[rows].float() / 255, CONFIG)
        return last.numpy()

    return one_pass


def opencv_loop(paths, size):
    rng = np.random.default_rng(0)

    def one_pass():
        order = rng.permutation(len(paths))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            batch = [decode(paths[i], size).astype(np.float32) / 255 for i in order[start : start + BATCH]]
            last = np.stack([augment_opencv(rng, image, CONFIG) for image in batch])
        return last

    return one_pass


@jax.jit
def augmented(key, step, resident, batch):
    images, _ = fetch(resident, batch)
    return augment(jax.random.fold_in(key, step), images, CONFIG)


def stream_pass(stream, resident):
    """One epoch of a stream of ours, fetched and augmented under jit."""
    key = jax.random.key(0)
    for step in range(stream.steps_per_epoch):
        last = augmented(key, step, resident, next(stream))
    return jax.block_until_ready(last)


def resident_pass(images):
    labels = np.zeros(len(images), np.int32)
    stream = DeviceStream(images, labels, [""] * len(images), batch_size=BATCH, seed=0)
    return functools.partial(stream_pass, stream, jax.device_put(stream.resident))


def grain_pass(paths, size):
    stream = grain_batches(paths, np.zeros(len(paths), np.int32), size=size, batch_size=BATCH, seed=0)
    return functools.partial(stream_pass, stream, {})


def cases_of(paths, size, cache_dir, rounds):
    items = len(paths) // BATCH * BATCH
    loaders = {f"DataLoader, {n} workers": torch_loader(paths, size, n) for n in (0, 2)}
    images = load_images(paths, size, cache_dir=cache_dir)
    first = {
        "device-resident": lambda: resident_pass(load_images(paths, size))(),
        "device-resident, cached": lambda: resident_pass(load_images(paths, size, cache_dir=cache_dir))(),
        "torch in memory": lambda: torch_memory(load_images(paths, size))(),
    }
    later = {
        "OpenCV loop": opencv_loop(paths, size),
        "torch in memory": torch_memory(images),
        "grain": grain_pass(paths, size),
        "device-resident": resident_pass(images),
    }
    what = f"{items} images at {size[0]}x{size[1]}"
    for name, candidates in {"later pass": later, "first pass": first}.items():
        timing = interleave({**loaders, **candidates}, rounds)
        best = min(loaders, key=lambda loader: statistics.median(timing.seconds[loader]))
        yield Case(f"{name}, {what}", timing, best, items)


def main():
    parser = arguments(__doc__.splitlines()[0], rounds=7)
    parser.add_argument("--files", type=Path, help="a folder of images, searched with its subfolders")
    parser.add_argument("--images", type=int, default=512, help="how many to draw, or to take from --files")
    parser.add_argument("--size", type=int, nargs=2, default=(80, 80), metavar=("H", "W"))
    options = parser.parse_args()
    if options.images < BATCH:
        parser.error(f"--images {options.images}: give at least {BATCH}, one batch")
    with tempfile.TemporaryDirectory() as folder:
        if options.files:
            paths = sorted(p for p in options.files.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)[: options.images]
            if len(paths) < BATCH:
                parser.error(f"--files {options.files}: {len(paths)} images there, {BATCH} needed")
        else:
            paths = write_files(Path(folder), options.images)
        cases = list(cases_of(paths, tuple(options.size), Path(folder) / "cache", options.rounds))
    report("input_pipeline", cases, options)


if __name__ == "__main__":
    main()
