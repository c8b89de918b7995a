"""Arrays of Keras' weight files, ``.h5``, ``.weights.h5`` and ``.keras``, by the names of their layers.

    python -m wbcjax.pretrained.keras_file FILE     # its arrays on standard output, as safetensors
"""

import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from safetensors.numpy import load, save

from wbcjax.errors import CheckpointError

NORM = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}
"""Parts of a batch norm, in the order in which Keras numbers them, and their names here."""
SECONDS, BYTES_PER_SECOND = 60.0, 5e6
"""How long reading may take, and the bytes for which it may take a second more: a slow disk stays well below both."""
REFUSED = 2
"""The exit status after an error whose message is on standard error."""
_EXPANSION = 100
"""Times its size a file may grow when it is read; Keras compresses a .keras file somewhat and nothing else."""


def read_keras(path: Path) -> dict[str, np.ndarray]:
    """Every array of a weights file or of a whole model, as "layer/part", by the layer's name in the model.

    Since 2016 Keras has written a layer's arrays in several ways: as ``conv1/conv1/kernel:0``, without the ``:0``, as
    ``conv1/conv1_W_1:0``, and as ``layers/conv2d/vars/0``, whose attribute is the layer's name.

    A process of its own does it, for a damaged file can make the HDF5 library crash or never return.

    Raises:
      CheckpointError: if the file is missing, of another kind, older than these names, or ends that process.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file; download it, or check the path")
    seconds = SECONDS + path.stat().st_size / BYTES_PER_SECOND
    try:
        done = subprocess.run([sys.executable, "-m", __name__, path], capture_output=True, timeout=seconds,
                              env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(f"{path}: damaged, for it was not read in {seconds:.0f} s; download it again") from error
    if done.returncode == REFUSED:
        raise CheckpointError(done.stderr.decode().strip())
    if done.returncode:
        raise CheckpointError(f"{path}: damaged, for reading it ended with status {done.returncode}; download it again")
    return load(done.stdout)


def read_here(path: Path) -> dict[str, np.ndarray]:
    """As ``read_keras`` without another process: what a damaged file does to HDF5, it does to the caller.

    Raises:
      CheckpointError: if the file is of another kind, or older than these names.
    """
    try:
        with h5py.File(io.BytesIO(_weights_of_zip(path)) if zipfile.is_zipfile(path) else path) as file:
            groups = _own(file, "model_weights") or file
            named = _numbered(groups, path) if _own(groups, "layers") else _named(groups)
            arrays: dict[str, np.ndarray] = {}
            _check_contents(groups, path)
            for name, dataset in named:
                if name in arrays:
                    raise CheckpointError(f"{path}: two arrays for {name}: not one network alone; save that one")
                arrays[name] = np.asarray(dataset, np.float32)
    except CheckpointError:
        raise
    except Exception as error:  # HDF5 and zip have many for a damaged file
        raise CheckpointError(f"{path}: not an HDF5 file of numbers, or damaged ({error}); download it again") \
            from error
    return arrays


def _weights_of_zip(path: Path) -> bytes:
    """Of a ``.keras`` file."""
    with zipfile.ZipFile(path) as file:
        if file.getinfo("model.weights.h5").file_size > _EXPANSION * path.stat().st_size:
            raise CheckpointError(f"{path}: expands to more than {_EXPANSION} times its size; download it again")
        return file.read("model.weights.h5")


def _own(group: h5py.Group, name: str) -> h5py.Group | None:
    """A group that lies in the file itself: a link may lead to any other file."""
    link = group.get(name, getlink=True)
    found = group.get(name) if isinstance(link, h5py.HardLink) else None
    return found if isinstance(found, h5py.Group) else None


def _check_contents(group: h5py.Group, path: Path) -> None:
    """Refuse arrays whose values lie in other files, and those that fill the memory out of a small file.

    Raises:
      CheckpointError: naming the first.
    """
    most, total = _EXPANSION * path.stat().st_size, 0
    for name, dataset in _datasets(group):
        if dataset.external or dataset.is_virtual:
            raise CheckpointError(f"{path}: {name} lies in another file; save the model as one file")
        total += dataset.nbytes
        if total > most:
            raise CheckpointError(f"{path}: {name} makes it expand to more than {_EXPANSION} times its size; download "
                                  "it again")


def _datasets(group: h5py.Group) -> list[tuple[str, h5py.Dataset]]:
    found = []
    group.visititems(lambda name, item: found.append((name, item)) if hasattr(item, "dtype") else None)
    return found


def _named(file: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    """Of a file in which every array has a name: a layer's arrays are in the group that it gave its name to."""
    for name, dataset in _datasets(file):
        layer, *_, part = name.split("/")
        old = re.fullmatch(r".*_([Wb])(?:_\d+)?", part.removesuffix(":0"))
        yield f"{layer}/{ {'W': 'kernel', 'b': 'bias'}[old[1]] if old else part.removesuffix(':0')}", dataset


def _numbered(file: h5py.Group, path: Path) -> Iterator[tuple[str, h5py.Dataset]]:
    """Of a file of Keras 3, in which a layer's arrays are numbered."""
    for name, dataset in _datasets(file["layers"]):
        layer = dataset.parent.attrs.get("name")
        if layer is None:
            raise CheckpointError(f"{path}: layers/{name} has no name; save the model again with a later Keras 3, "
                                  "or as .h5")
        count, kernel = len(dataset.parent), len(dataset.parent["0"].shape) > 1
        # A batch norm without a scale leaves the first out.
        parts = ("kernel", "bias") if kernel else tuple(NORM)[-count:]
        yield f"{layer}/{parts[int(name.rsplit('/', 1)[1])]}", dataset


def main(path: Path) -> int:
    """The exit status, ``REFUSED`` after an error; the arrays, or the message, are written."""
    try:
        sys.stdout.buffer.write(save(read_here(path)))
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
