"""The provenance table, the boxes mapped through it, and its recovery from images."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcjax.data import ClassificationSet, DetectionSet, kaggle, provenance, voc
from wbcjax.data.overlaps import find_overlaps
from wbcjax.data.provenance import Provenance, map_boxes, read_table, recompute, wbc_boxes, write_table
from wbcjax.data.registration import build_index, register
from wbcjax.errors import DataError

IDENTITY = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
MIRROR = np.array([[-1, 0, 319], [0, 1, 0]], np.float32)
"""Column i of 320 becomes column 319 - i: pixel centres."""


def shifted(dx, dy):
    return IDENTITY + np.array([[0, 0, dx], [0, 0, dy]], np.float32)


def small_table():
    return Provenance(
        names=("TRAIN/MONOCYTE/_0_1.jpeg", "TRAIN/MONOCYTE/_0_2.jpeg", "TEST/LYMPHOCYTE/_1_3.jpeg"),
        source=np.array([9, 8, 7], np.int32),
        inliers=np.array([130, 131, 45], np.int32),
        second_source=np.array([3, -1, 4], np.int32),
        second_inliers=np.array([3, 0, 5], np.int32),
        affine=np.stack([IDENTITY, MIRROR, shifted(12.25, -3.5)]).astype(np.float32),
    )


# --- the table ---


@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_table_round_trip(tmp_path, suffix):
    table = small_table()
    write_table(table, tmp_path / f"t{suffix}")
    again = read_table(tmp_path / f"t{suffix}")
    assert again.names == table.names
    for column in ("source", "inliers", "second_source", "second_inliers", "affine"):
        np.testing.assert_array_equal(getattr(again, column), getattr(table, column))
    assert [p.name for p in tmp_path.iterdir()] == [f"t{suffix}"]


def test_table_lookups():
    table = small_table()
    assert table.source_of("TRAIN", "MONOCYTE", "_0_2.jpeg") == "BloodImage_00008"
    np.testing.assert_array_equal(table.affine_of("TRAIN", "MONOCYTE", "_0_2.jpeg"), MIRROR)
    assert table.originals() == ("BloodImage_00007", "BloodImage_00008", "BloodImage_00009")
    assert table.originals("TEST") == ("BloodImage_00007",)
    assert "TRAIN/MONOCYTE/_0_1.jpeg" in table and "x" not in table
    with pytest.raises(DataError, match="TEST/x/y: not in the provenance table of 3 files; run `wbcjax"):
        table.source_of("TEST", "x", "y")


def test_packaged_table_knows_every_file():
    table = provenance.load()
    assert len(table) == len(set(table.names)) == 12_515
    assert [len(table.originals(s)) for s in ("TRAIN", "TEST", "TEST_SIMPLE", None)] == [277, 71, 69, 348]
    assert not set(table.originals("TRAIN")) & set(table.originals("TEST"))
    assert table.inliers.min() == 45 and (table.inliers > table.second_inliers).all()
    assert set(table.originals("TEST_SIMPLE")) <= set(table.originals("TEST"))


def test_load_prefers_the_table_of_the_root(tmp_path):
    deep = tmp_path / "blood-cells" / "images" / "TRAIN"
    deep.mkdir(parents=True)
    assert len(provenance.load(deep)) == 12_515
    write_table(small_table(), tmp_path / "provenance.csv")
    assert len(provenance.load(tmp_path)) == len(provenance.load(deep)) == 3


def test_damaged_tables(tmp_path):
    path = tmp_path / "provenance.csv"
    with pytest.raises(DataError, match=r"provenance\.csv: no such table; run `wbcjax data provenance`"):
        read_table(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"provenance\.csv: no CSV file"):
        read_table(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"provenance\.csv: no provenance table, expected the columns split,"):
        read_table(path)
    write_table(small_table(), path)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match=r"provenance\.csv: a row is damaged"):
        read_table(path)


# --- boxes ---


def test_map_boxes_halves_and_mirrors():
    boxes = np.array([[100, 40, 200, 80]], np.float32)
    np.testing.assert_allclose(map_boxes(boxes, IDENTITY), [[50, 20, 100, 40]], atol=1e-4)
    # Continuous x of 320 pixels becomes 320 - x.
    np.testing.assert_allclose(map_boxes(boxes, MIRROR), [[220, 20, 270, 40]], atol=1e-4)


def test_map_boxes_clips_and_empties():
    boxes = np.array([[0, 0, 100, 100], [560, 0, 640, 60]], np.float32)
    mapped = map_boxes(boxes, shifted(30, -20))
    np.testing.assert_allclose(mapped, [[30, 0, 80, 30], [310, 0, 320, 10]], atol=1e-4)
    gone = map_boxes(boxes, shifted(400, 0))
    assert ((gone[:, 2] - gone[:, 0]) == 0).all()
    assert map_boxes(np.zeros((0, 4), np.float32), IDENTITY).shape == (0, 4)


@given(
    st.floats(0, 400), st.floats(0, 300), st.floats(20, 200), st.floats(20, 150),
    st.floats(-3.2, 3.2), st.floats(-0.3, 0.3), st.booleans(),
)  # fmt: skip
def test_map_boxes_is_the_hull_of_the_ellipse(x, y, w, h, angle, shear, mirrored):
    """Against the mapped points of the ellipse itself, in pixel centres."""
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ [[1, shear], [0, 1]]
    if mirrored:
        linear = linear @ np.diag([-1, 1])
    centre = np.array([x + w / 2, y + h / 2]) / 2 - 0.5
    affine = np.column_stack([linear, np.array([160, 120]) - linear @ centre]).astype(np.float32)
    turn = np.linspace(0, 2 * np.pi, 4001)
    circle = np.stack([np.cos(turn) * w / 2, np.sin(turn) * h / 2], axis=1)
    points = ((circle + np.array([x + w / 2, y + h / 2])) / 2 - 0.5) @ affine[:, :2].T + affine[:, 2] + 0.5
    expected = np.clip([*points.min(axis=0), *points.max(axis=0)], 0, [320, 240, 320, 240])
    got = map_boxes(np.array([[x, y, x + w, y + h]], np.float32), affine)
    np.testing.assert_allclose(got[0], expected, atol=0.01)


def test_wbc_boxes_of_files_originals_and_unannotated():
    names = ("BloodImage_00009", "BloodImage_00008")
    boxes = (np.array([[0, 0, 50, 50], [100, 40, 200, 80]], np.float32), np.array([[0, 0, 99, 99]], np.float32))
    detection = DetectionSet(
        paths=tuple(Path(f"{n}.jpg") for n in names),
        boxes=boxes,
        labels=(np.array([1, 0], np.int32), np.array([2], np.int32)),
        class_names=("wbc", "rbc", "platelets"),
        sizes=((480, 640), (480, 640)),
    )
    paths = [Path(n) for n in small_table().names] + [Path("x/BloodImage_00009.jpg")]
    files = ClassificationSet(tuple(paths), np.zeros(4, np.int32), ("",) * 4, ("monocyte",))
    found = wbc_boxes(files, detection, table=small_table())
    np.testing.assert_allclose(found[0], [[50, 20, 100, 40]], atol=1e-4)
    assert found[1].shape == (0, 4)  # its original has no WBC box
    assert found[2].shape == (0, 4)  # its original is not in the detection set
    np.testing.assert_array_equal(found[3], [[100, 40, 200, 80]])  # the original itself
    assert wbc_boxes(files.subset([]), detection) == ()
    stranger = ClassificationSet((Path("TRAIN/MONOCYTE/_9_9.jpeg"),), np.zeros(1, np.int32), ("",), ("monocyte",))
    with pytest.raises(DataError, match=r"TRAIN/MONOCYTE/_9_9\.jpeg: not in the provenance table"):
        wbc_boxes(stranger, detection, table=small_table())


# --- recovery from images ---


def textured(seed, height=480, width=640):
    """Random discs on a smooth ground: enough texture for SIFT, of another kind for each seed."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(120, 220, (6, 8, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(120):
        centre = tuple(int(v) for v in rng.integers((0, 0), (width, height)))
        color = tuple(int(v) for v in rng.integers(0, 255, 3))
        axes = tuple(int(v) for v in rng.integers(5, 30, 2))
        cv2.ellipse(image, centre, axes, float(rng.integers(180)), 0, 360, color, -1)
    return cv2.GaussianBlur(image, (0, 0), 1.5)


AFFINES = (
    np.array([[0.98, -0.17, 30], [0.17, 0.98, -20]], np.float32),
    np.array([[-0.97, 0.1, 330], [0.2, 1.0, -10]], np.float32),  # mirrored
)


def warped(original, affine):
    small = cv2.resize(original, (320, 240), interpolation=cv2.INTER_LINEAR)
    return cv2.warpAffine(small, affine, (320, 240))


def corners(affine):
    return affine @ np.array([[0, 0, 1], [319, 0, 1], [0, 239, 1], [319, 239, 1]]).T


def test_register_recovers_a_known_map():
    images = [textured(seed) for seed in range(4)]
    index = build_index(("a", "b", "c", "d"), images, (240, 320))
    for affine in AFFINES:
        match = register(warped(images[2], affine), index)
        assert match.name == "c" and match.inliers > 40 > match.second_inliers
        assert np.abs(corners(match.affine) - corners(affine)).max() < 1
    blank = register(np.full((240, 320, 3), 90, np.uint8), index)
    assert (blank.name, blank.inliers) == (None, 0)


def test_recompute_writes_what_it_recovers(tmp_path, caplog):
    """A data root of drawn originals and copies; in two processes the result is the same as in one."""
    images = tmp_path / "blood-cells" / "dataset2-master" / "dataset2-master" / "images"
    originals = tmp_path / "BCCD_Dataset" / "BCCD" / "JPEGImages"
    (images / "TRAIN" / "MONOCYTE").mkdir(parents=True)
    originals.mkdir(parents=True)
    for seed in range(3):
        cv2.imwrite(str(originals / f"BloodImage_{1000 + seed:05d}.jpg"), textured(seed))
    for i, affine in enumerate(AFFINES):
        cv2.imwrite(str(images / "TRAIN" / "MONOCYTE" / f"_{i}_1.jpeg"), warped(textured(1 + i), affine))
    cv2.imwrite(str(images / "TRAIN" / "MONOCYTE" / "_9_9.jpeg"), textured(99, 240, 320))

    table = recompute(tmp_path, workers=1)
    assert table.names == ("TRAIN/MONOCYTE/_0_1.jpeg", "TRAIN/MONOCYTE/_1_1.jpeg")
    assert table.source.tolist() == [1001, 1002]
    for found, affine in zip(table.affine, AFFINES, strict=True):
        assert np.abs(corners(found) - corners(affine)).max() < 1
    assert "TRAIN/MONOCYTE/_9_9.jpeg: no original found" in caplog.text

    parallel = recompute(tmp_path, workers=2)
    assert parallel.names == table.names
    np.testing.assert_array_equal(parallel.affine, table.affine)
    write_table(table, tmp_path / "provenance.csv")
    assert provenance.load(tmp_path).source.tolist() == [1001, 1002]


def test_recompute_needs_originals(tmp_path):
    (tmp_path / "TRAIN").mkdir()
    with pytest.raises(DataError, match="holds no originals"):
        recompute(tmp_path)


# --- the real data ---


def test_real_table_is_the_packaged_one(data_root):
    real, packaged = provenance.load(data_root), provenance.load()
    assert set(real.names) == set(packaged.names)
    rows = [packaged.row(name) for name in real.names]
    np.testing.assert_array_equal(real.source, packaged.source[rows])
    np.testing.assert_array_equal(real.affine, packaged.affine[rows])


def test_real_sample_is_recovered(data_root):
    """Six files spread over the table, one of them mirrored, against their originals among 40."""
    known = provenance.load()
    names = [known.names[i] for i in np.linspace(80, len(known) - 1, 6).astype(int)]
    rows = [known.row(name) for name in names]
    wanted = {f"BloodImage_{known.source[r]:05d}" for r in rows}
    others = [name for name in known.originals() if name not in wanted][:: 348 // (40 - len(wanted)) + 1]
    found = recompute(data_root, names, originals=sorted(wanted | set(others)), workers=1)
    np.testing.assert_array_equal(found.source, known.source[rows])
    assert (found.inliers > 3 * found.second_inliers).all()
    for got, row in zip(found.affine, rows, strict=True):
        assert np.abs(corners(got) - corners(known.affine[row])).max() < 2


def test_real_boxes_cover_the_stained_cell(data_root):
    """Inside its mapped box a cell is darker in green than the rest of the picture, in nearly every file."""
    files = kaggle(data_root, "TEST").subset(range(0, 2487, 60))
    boxes = wbc_boxes(files, voc(data_root))
    assert sum(len(b) for b in boxes) >= len(files) - 3
    darker = []
    for path, found in zip(files.paths, boxes, strict=True):
        green = cv2.imread(str(path))[..., 1].astype(float)
        for x0, y0, x1, y1 in found.astype(int):
            ground = green[green > 20]  # not the black fill
            darker.append(np.median(green[y0:y1, x0:x1]) < np.median(ground))
    assert np.mean(darker) > 0.95


@pytest.mark.slow
def test_real_overlaps_are_the_packaged_ones(data_root):
    from wbcjax.data.overlaps import overlaps

    found = {(o.first, o.second, o.same_cell) for o in find_overlaps(data_root)}
    assert found == {(o.first, o.second, o.same_cell) for o in overlaps()}
