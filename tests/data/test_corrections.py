"""Corrections of BCCD's boxes: applied, refused, and derived again from the data."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from wbcjax.data import voc, with_masks
from wbcjax.data.cell_masks import cell_mask_path, read_cell_mask
from wbcjax.data.corrections import Correction, corrected, corrections, derive_corrections, write_corrections
from wbcjax.data.sets import DetectionSet
from wbcjax.errors import DataError

NAMES = ("wbc", "rbc", "platelets")
WITHOUT_WHITE_CELL = tuple(f"BloodImage_{n:05}" for n in (133, 135, 171, 178, 228, 327))


def small_set():
    boxes = (np.float32([[1, 1, 5, 5], [2, 2, 9, 9]]), np.zeros((0, 4), np.float32))
    labels = (np.int32([1, 2]), np.zeros(0, np.int32))
    return DetectionSet((Path("a.png"), Path("b.png")), boxes, labels, NAMES, ((20, 20),) * 2)


def test_boxes_are_added_and_change_their_class():
    table = (
        Correction("a", "platelets", "wbc", (2.0, 2.0, 9.0, 9.0)),
        Correction("b", "", "wbc", (3.0, 3.0, 8.0, 8.0)),
        Correction("elsewhere", "", "wbc", (0.0, 0.0, 1.0, 1.0)),
    )
    before = small_set()
    after = corrected(before, table)
    np.testing.assert_array_equal(after.boxes[0], before.boxes[0])
    assert after.labels[0].tolist() == [1, 0] and before.labels[0].tolist() == [1, 2]
    assert after.boxes[1].tolist() == [[3, 3, 8, 8]] and after.labels[1].tolist() == [0]
    assert after.boxes[1].dtype == np.float32 and after.labels[1].dtype == np.int32


def test_what_cannot_be_corrected_is_refused():
    missing = (Correction("a", "platelets", "wbc", (2.0, 2.0, 9.0, 8.0)),)
    with pytest.raises(DataError, match=r"a: has no box \(2.0, 2.0, 9.0, 8.0\) of platelets, which is to become wbc"):
        corrected(small_set(), missing)
    added = (Correction("a", "", "wbc", (2.0, 2.0, 9.0, 8.0)),)
    with pytest.raises(DataError, match="classes rbc has none for the correction to wbc; correct it first"):
        corrected(small_set().of_classes(("rbc",)), added)
    with pytest.raises(DataError, match="correct it first, then add masks"):
        corrected(with_masks_of(small_set()), added)


def with_masks_of(data):
    from dataclasses import replace

    return replace(data, masks=tuple(np.zeros((len(b), 20, 20), bool) for b in data.boxes))


def test_a_set_of_other_images_stays(synthetic_root):
    data = voc(synthetic_root)
    after = corrected(data)
    for a, b in zip(data.boxes + data.labels, after.boxes + after.labels, strict=True):
        np.testing.assert_array_equal(a, b)
    masked = with_masks(data.subset([0]).of_classes(("wbc",)), synthetic_root)
    assert corrected(masked).masks is masked.masks


def test_the_table_is_written_as_it_is_read(tmp_path):
    write_corrections(corrections(), tmp_path / "table.csv")
    import wbcjax.data.corrections as module

    packaged = Path(module.__file__).parent / "tables" / "corrections.csv"
    assert (tmp_path / "table.csv").read_text() == packaged.read_text()
    assert len(corrections()) == 8


def test_derived_from_planted_errors(synthetic_root, tmp_path):
    """Of a synthetic root, one image loses its white cell's box, in another it becomes platelets."""
    import shutil

    root = tmp_path / "root"
    for folder in ("BCCD_Dataset", "BCCD_masks"):
        shutil.copytree(synthetic_root / folder, root / folder)
    annotations = sorted((root / "BCCD_Dataset" / "BCCD" / "Annotations").glob("*.xml"))
    names = [a.stem for a in annotations]
    data = voc(root)
    single = [i for i in range(len(data)) if len(data.boxes_of("wbc")[i]) == 1]
    lost, renamed = single[:2]
    text = annotations[lost].read_text()
    start, end = text.index("<object>"), text.index("</object>") + len("</object>")
    assert "<name>WBC</name>" in text[start:end]
    annotations[lost].write_text(text[:start] + text[end:])
    annotations[renamed].write_text(annotations[renamed].read_text().replace("<name>WBC</name>", "<name>RBC</name>", 1))

    derived = derive_corrections(root)
    assert [(c.name, c.published, c.corrected) for c in derived] == [
        (names[lost], "", "wbc"), (names[renamed], "rbc", "wbc"),
    ]
    for change, i in zip(derived, (lost, renamed), strict=True):
        np.testing.assert_allclose(change.box, data.boxes_of("wbc")[i][0], atol=2)
    restored = corrected(voc(root), derived)
    assert [len(b) for b in restored.boxes_of("wbc")] == [len(b) for b in data.boxes_of("wbc")]

    cell_mask_path(root, names[0]).unlink()
    with pytest.raises(DataError, match=f"holds no mask of {names[0]}"):
        derive_corrections(root)


def test_the_packaged_table_is_what_the_data_give(data_root, caplog):
    caplog.set_level(logging.ERROR)
    assert derive_corrections(data_root) == corrections()


def test_every_image_of_bccd_has_a_white_cell_then(data_root, caplog):
    caplog.set_level(logging.ERROR)
    published = voc(data_root)
    after = corrected(published)
    none = [n for n, b in zip(published.names, published.boxes_of("wbc"), strict=True) if not len(b)]
    assert tuple(none) == WITHOUT_WHITE_CELL
    assert min(len(b) for b in after.boxes_of("wbc")) == 1
    assert sum(len(b) for b in after.boxes_of("wbc")) == 372 + 6 + 1 - 1
    for change in corrections():
        mask = read_cell_mask(cell_mask_path(data_root, change.name)) > 0
        x0, y0, x1, y1 = map(int, change.box)
        inside = mask[y0:y1, x0:x1]
        if change.corrected == "wbc":
            count, parts = cv2.connectedComponents(mask.astype(np.uint8))
            whole = max((parts[y0:y1, x0:x1] == part).sum() / (parts == part).sum() for part in range(1, count))
            assert whole > 0.95 and inside.mean() > 0.5
        else:
            assert not inside.any()
