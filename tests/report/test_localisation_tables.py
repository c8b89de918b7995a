"""Tables 2, 3 and 8 from rows."""

from wbcjax.evaluation.results import row
from wbcjax.report.localisation import localisation_tables


def rows(model: str, metric: str, value: float, experiment: str = "table3_mask_rcnn", **keys) -> list[dict]:
    made = row(model=model, input="whole", split=keys.pop("split", "detector test"), metric=metric, value=value, **keys)
    return [made | {"experiment": experiment}]


def texts(table) -> list[list[str]]:
    return [[cell.text for cell in line] for line in table.rows]


def headings(table) -> list[str]:
    return [column.heading for column in table.columns]


MASK_RCNN = [
    *rows("mask_rcnn_compact", "images", 143, variant="published", unit="image"),
    *rows("mask_rcnn_compact", "mean_iou", 0.8, variant="published", unit="image", low=0.75, high=0.85),
    *rows("mask_rcnn_compact", "mean_iou", 0.81, variant="corrected", unit="image"),
    *rows("mask_rcnn_compact", "cells", 156, variant="published", unit="cell"),
    *rows("mask_rcnn_compact", "mean_iou", 0.7, variant="published", unit="cell"),
    *rows("mask_rcnn_compact", "ap", 0.6, variant="published", unit="cell", kind="box"),
    *rows("mask_rcnn_compact", "ap", 0.5, variant="published", unit="cell", kind="mask"),
    *rows("mask_rcnn_compact", "ap", 0.4, variant="published", unit="cell", kind="box", class_name="wbc"),
    *rows("mask_rcnn_vgg16", "mean_iou", 0.72, variant="published", unit="image", paper=0.71),
]
COLOR = rows("color", "mean_iou", 0.63, "table2_color_roi", variant="faithful", paper=0.59)


def test_table_3_tells_images_from_cells_and_boxes_from_masks():
    by_image, by_cell = localisation_tables(MASK_RCNN)
    assert (by_image.key, by_cell.key) == ("table3", "table3-cells")
    assert headings(by_image) == ["method", "set", "images", "mean"]
    assert texts(by_image) == [
        ["Mask R-CNN, VGG16 (published)", "detector test", "–", "0.720"],
        ["Mask R-CNN, VGG16, the paper's", "–", "–", "0.710"],
        ["Mask R-CNN, compact (published)", "detector test", "143", "0.800"],
        ["Mask R-CNN, compact (corrected)", "detector test", "–", "0.810"],
    ]
    assert by_image.rows[0][3].kind == "good" and by_image.rows[2][3].interval == "0.750–0.850"
    assert headings(by_cell) == ["method", "set", "cells", "mean", "AP", "mask AP"]
    assert texts(by_cell) == [
        ["Mask R-CNN, compact (published)", "detector test", "156", "0.700", "0.600", "0.500"]]


def test_table_8_sets_both_methods_side_by_side_on_the_same_boxes():
    others = rows("color", "mean_iou", 0.9, "table2_color_roi", variant="faithful", split="BCCD")
    table = list(localisation_tables([*COLOR, *others, *MASK_RCNN]))[-1]
    assert table.key == "table8"
    assert [line[0] for line in texts(table)] == [
        "Colour ROI (faithful)", "Colour ROI, the paper's", "Mask R-CNN, VGG16 (published)",
        "Mask R-CNN, VGG16, the paper's", "Mask R-CNN, compact (published)"]
    assert headings(table) == ["method", "set", "images", "mean"]


def test_one_method_alone_is_no_comparison():
    assert [table.key for table in localisation_tables(COLOR)] == ["table2"]
    assert "table8" not in [table.key for table in localisation_tables(MASK_RCNN)]
