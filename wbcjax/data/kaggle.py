"""The layout of Kaggle's paultimothymooney/blood-cells: augmented copies, their originals and labels.csv."""

import csv
from pathlib import Path

import numpy as np

from wbcjax.data import provenance
from wbcjax.data.folders import images_in
from wbcjax.data.sets import ClassificationSet, name_of
from wbcjax.errors import DataError
from wbcjax.typing import CLASS_NAMES

SPLITS = ("TRAIN", "TEST", "TEST_SIMPLE")


def images_folder(root: Path) -> Path:
    """The folder that holds TRAIN and TEST: ``root`` itself, or dataset2-master's images under it.

    Raises:
      DataError: there is none.
    """
    root = Path(root)
    inner = Path("dataset2-master") / "dataset2-master" / "images"
    candidates = (root / "blood-cells" / inner, root / inner, root)
    for folder in candidates:
        if any((folder / split).is_dir() for split in SPLITS):
            return folder
    raise DataError(
        f"{root}: holds no blood-cells/{inner} with TRAIN and TEST; check the data root, or run `wbcjax data download`"
    )


def kaggle(root: Path, split: str = "TRAIN", *, strict: bool = True) -> ClassificationSet:
    """One split of dataset2-master, with the original of every file.

    Args:
      root: the data root, or the folder that holds TRAIN, TEST and TEST_SIMPLE.
      split: one of these three.
      strict: stop at a class folder without images; False leaves the class empty with a warning.

    Returns:
      Files by class and name; labels index ``CLASS_NAMES``; ``sources`` from the provenance table (a file
      that the table does not know is its own source).

    Raises:
      DataError: a missing folder, or a class folder without images.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}")
    folder = images_folder(root) / split
    table = provenance.load(folder)
    paths, labels, sources = [], [], []
    for label, class_name in enumerate(CLASS_NAMES):
        class_folder = folder / class_name.upper()
        files = images_in(class_folder, strict=strict)
        paths += files
        labels += [label] * len(files)
        for file in files:
            name = name_of(file)
            sources.append(provenance.original_name(int(table.source[table.row(name)])) if name in table else file.stem)
    return ClassificationSet(tuple(paths), np.array(labels, np.int32), tuple(sources), CLASS_NAMES)


def read_labels(root: Path) -> dict[str, str]:
    """Class text of each original of labels.csv ("NEUTROPHIL", "NEUTROPHIL, EOSINOPHIL" or ""), by its name.

    Raises:
      DataError: the file is missing or has other columns.
    """
    path = _originals_folder(root) / "labels.csv"
    if not path.is_file():
        raise DataError(f"{path}: no such file; check the data root, or run `wbcjax data download`")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: no CSV file ({error}); download it again") from None
    if reader.fieldnames is None or {"Image", "Category"} - set(reader.fieldnames):
        raise DataError(
            f"{path}: expected the columns Image and Category, found {reader.fieldnames}; download it again"
        )
    labels = {}
    for number, row in enumerate(rows, start=2):
        image = (row["Image"] or "").strip()
        if not image:
            continue
        if not image.isdecimal():
            raise DataError(f"{path}: line {number} names the image {image!r}, expected its number; correct it")
        labels[provenance.original_name(int(image))] = (row["Category"] or "").strip()
    return labels


def originals(root: Path, split: str | None = None) -> ClassificationSet:
    """The labelled originals behind dataset2-master, by name: 348, or those of one split (277 TRAIN, 71
    TEST).

    The images lie in BCCD_Dataset/BCCD/JPEGImages or, three of them, in dataset-master's JPEGImages.

    Raises:
      DataError: an image or labels.csv is missing, or a label is none of ``CLASS_NAMES``.
    """
    labels = read_labels(root)
    files = provenance.original_files(root)
    names = provenance.load(root).originals(split)
    indices = []
    for name in names:
        if name not in files:
            raise DataError(
                f"{root}: the image of the original {name} is missing, in BCCD_Dataset and in blood-cells; "
                f"run `wbcjax data download`"
            )
        text = labels.get(name, "").lower()
        if text not in CLASS_NAMES:
            raise DataError(f"labels.csv: {name} has the class {text!r}, expected one of {', '.join(CLASS_NAMES)}")
        indices.append(CLASS_NAMES.index(text))
    return ClassificationSet(tuple(files[name] for name in names), np.array(indices, np.int32), names, CLASS_NAMES)


def _originals_folder(root: Path) -> Path:
    inner = Path("dataset-master") / "dataset-master"
    root = Path(root)
    return next((f for f in (root / "blood-cells" / inner, root / inner) if f.is_dir()), root / "blood-cells" / inner)
