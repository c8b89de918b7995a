"""The folders and files of the real archives, filled with synthetic smears.

The copies are made as Keras' ImageDataGenerator made the real ones: rotation up to 20°, shifts up to 0.1, shear
up to 0.2 rad, both flips, black fill, and each file stretched to a maximum of 255.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from wbcjax.data.provenance import FILE_SIZE, Provenance, original_name
from wbcjax.data.synthetic_scene import Smear
from wbcjax.typing import CLASS_NAMES, DETECTION_CLASS_NAMES, Float, Image

FIRST_NUMBER = 1000
NUCLEUS_VALUE, CYTOPLASM_VALUE = 255, 155
_JPEG_QUALITY = 92
_IMAGES = Path("blood-cells/dataset2-master/dataset2-master/images")
_LABELS = Path("blood-cells/dataset-master/dataset-master")
_BCCD = Path("BCCD_Dataset/BCCD")
_VOC_NAMES = {"wbc": "WBC", "rbc": "RBC", "platelets": "Platelets"}
_VOC = """<annotation>
\t<folder>JPEGImages</folder>
\t<filename>{name}.jpg</filename>
\t<path>JPEGImages/{name}.jpg</path>
\t<source>
\t\t<database>synthetic</database>
\t</source>
\t<size>
\t\t<width>{w}</width>
\t\t<height>{h}</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>
{objects}</annotation>
"""
_VOC_OBJECT = """\t<object>
\t\t<name>{name}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>{cut}</truncated>
\t\t<difficult>0</difficult>
\t\t<bndbox>
\t\t\t<xmin>{x0}</xmin>
\t\t\t<ymin>{y0}</ymin>
\t\t\t<xmax>{x1}</xmax>
\t\t\t<ymax>{y1}</ymax>
\t\t</bndbox>
\t</object>
"""


@dataclass(frozen=True)
class Original:
    """One smear to draw.

    Its number, its split ("TRAIN", "TEST" or "" for neither), the classes of its white cells, and the names
    of its copies ("TRAIN/MONOCYTE/_0_5020.jpeg").
    """

    number: int
    split: str
    kinds: tuple[int, ...]
    copies: tuple[str, ...]


@dataclass(frozen=True)
class Copy:
    """One written file of dataset2-master: where it came from."""

    name: str
    source: int
    affine: Float[np.ndarray, "2 3"]


def plan(
    counts: dict[str, tuple[int, ...]], copies: dict[str, int], two_cells: int, seed: int
) -> list[Original]:
    """Number the originals in a shuffled order and name their copies.

    ``_<k>_<number>.jpeg``: as in the archive, ``k`` is the position in a shuffled pass over the originals of
    the class and ``number`` is random, so neither tells the original.

    Args:
      counts: originals of each class, by split.
      copies: files a class, by split.
      two_cells: further originals with two white cells.
      seed: not negative.
    """
    rng = np.random.default_rng((seed, 0))
    wanted: list[tuple[str, tuple[int, ...]]] = [
        (split, (kind,))
        for split, by_class in counts.items()
        for kind, n in enumerate(by_class)
        for _ in range(n)
    ]
    wanted += [("", tuple(rng.integers(0, len(CLASS_NAMES), 2).tolist())) for _ in range(two_cells)]
    wanted = [wanted[i] for i in rng.permutation(len(wanted))]
    names: list[list[str]] = [[] for _ in wanted]
    for split, n_files in copies.items():
        for kind, class_name in enumerate(CLASS_NAMES):
            members = [i for i, w in enumerate(wanted) if w == (split, (kind,))]
            passes = np.concatenate(
                [rng.permutation(len(members)) for _ in range(-(-n_files // len(members)))]
            )
            numbers = rng.choice(10_000, n_files, replace=False)
            for position, (member, number) in enumerate(zip(passes[:n_files], numbers, strict=True)):
                names[members[member]].append(
                    f"{split}/{class_name.upper()}/_{position % len(members)}_{number}.jpeg"
                )
            if split == "TEST":
                for k, member in enumerate(members):
                    number = rng.integers(10_000)
                    names[member].append(f"TEST_SIMPLE/{class_name.upper()}/_{k}_{number}.jpeg")
    return [
        Original(FIRST_NUMBER + i, split, kinds, tuple(names[i])) for i, (split, kinds) in enumerate(wanted)
    ]


def make_folders(root: Path) -> None:
    """Every folder of the layout below ``root``, which must not exist."""
    folders = [
        _BCCD / "Annotations",
        _BCCD / "JPEGImages",
        _BCCD / "ImageSets/Main",
        Path("BCCD_masks"),
        _LABELS,
    ]
    folders += [
        _IMAGES / split / name.upper() for split in ("TRAIN", "TEST", "TEST_SIMPLE") for name in CLASS_NAMES
    ]
    root.mkdir()
    for folder in folders:
        (root / folder).mkdir(parents=True)


def write_original(root: Path, original: Original, smear: Smear, rng: np.random.Generator) -> list[Copy]:
    """Write one original (JPEG, VOC XML, cell mask) and its copies; returns the provenance of the copies."""
    name = original_name(original.number)
    encoded = _jpeg(smear.image)
    (root / _BCCD / "JPEGImages" / f"{name}.jpg").write_bytes(encoded.tobytes())
    (root / _BCCD / "Annotations" / f"{name}.xml").write_text(_voc_xml(name, smear))
    n_white = len(smear.wbc_class)
    mask = np.where((smear.owner >= 1) & (smear.owner <= n_white), CYTOPLASM_VALUE, 0).astype(np.uint8)
    mask[smear.nucleus] = NUCLEUS_VALUE
    mask_name = name.replace("BloodImage_", "BloodImage_Mask_")
    (root / "BCCD_masks" / f"{mask_name}.png").write_bytes(cv2.imencode(".png", mask)[1].tobytes())

    # The copies come from the file, compression and all, as the real ones do.
    decoded = cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    small = cv2.resize(decoded, FILE_SIZE[::-1], interpolation=cv2.INTER_AREA)
    rows = []
    for copy in original.copies:
        plain = copy.startswith("TEST_SIMPLE/")
        affine = np.eye(2, 3) if plain else random_affine(rng)
        (root / _IMAGES / copy).write_bytes(_jpeg(small if plain else warp(small, affine)).tobytes())
        rows.append(Copy(copy, original.number, affine))
    return rows


def random_affine(rng: np.random.Generator) -> Float[np.ndarray, "2 3"]:
    """Map from the pixel centres of a resized original to those of a copy.

    Rounded to the four decimals of provenance.csv, so that the table is exactly what was done.
    """
    h, w = FILE_SIZE
    turn, shear = rng.uniform(-np.pi / 9, np.pi / 9), rng.uniform(-0.2, 0.2)
    shift = rng.uniform(-0.1, 0.1, 2) * (w, h)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = rotation @ [[1, -np.sin(shear)], [0, np.cos(shear)]]
    linear = rng.choice([-1.0, 1.0], 2)[:, None] * linear
    center = np.array([(w - 1) / 2, (h - 1) / 2])
    return np.round(np.column_stack([linear, center + shift - linear @ center]), 4)


def warp(image: Image, affine: Float[np.ndarray, "2 3"]) -> Image:
    """A copy: mapped, black outside, stretched so that its brightest value is 255."""
    h, w = image.shape[:2]
    mapped = cv2.warpAffine(image, affine, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return cv2.convertScaleAbs(mapped, alpha=255 / max(int(mapped.max()), 1))


def write_lists(root: Path, originals: list[Original]) -> None:
    """labels.csv, and BCCD's lists of images (every fifth TRAIN original is in val)."""
    # The real file has an empty first column, CRLF ends and none after the last row.
    lines = [",Image,Category"]
    for original in originals:
        category = ", ".join(CLASS_NAMES[kind].upper() for kind in original.kinds)
        lines.append(f",{original.number}," + (f'"{category}"' if "," in category else category))
    (root / _LABELS / "labels.csv").write_bytes("\r\n".join(lines).encode())
    trainval = [original_name(o.number) for o in originals if o.split == "TRAIN"]
    lists = {
        "trainval": trainval,
        "val": trainval[::5],
        "train": [n for i, n in enumerate(trainval) if i % 5],
        "test": [original_name(o.number) for o in originals if o.split != "TRAIN"],
    }
    for name, members in lists.items():
        (root / _BCCD / "ImageSets/Main" / f"{name}.txt").write_text("".join(f"{m}\n" for m in members))


def provenance_of(rows: list[Copy]) -> Provenance:
    """The provenance table of the written copies.

    There was no search, so the columns of evidence hold 0, and -1 for the second source.
    """
    n = len(rows)
    return Provenance(
        names=tuple(row.name for row in rows),
        source=np.array([row.source for row in rows], np.int32),
        inliers=np.zeros(n, np.int32),
        second_source=np.full(n, -1, np.int32),
        second_inliers=np.zeros(n, np.int32),
        affine=np.array([row.affine for row in rows], np.float32).reshape(n, 2, 3),
    )


def _jpeg(image):
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]


def _voc_xml(name, smear):
    h, w = smear.image.shape[:2]
    objects = []
    for box, label in zip(smear.boxes, smear.labels, strict=True):
        x0, y0, x1, y1 = (int(v) for v in box)
        cut = int(x0 == 0 or y0 == 0 or x1 == w or y1 == h)
        objects.append(
            _VOC_OBJECT.format(
                name=_VOC_NAMES[DETECTION_CLASS_NAMES[label]], cut=cut, x0=x0, y0=y0, x1=x1, y1=y1
            )
        )
    return _VOC.format(name=name, w=w, h=h, objects="".join(objects))
