"""Regions of interest: find the cell by its colour, trace its contour, crop it."""

from wbcjax.roi.color import EXPANDED, FAITHFUL, color_roi, color_rois, steps
from wbcjax.roi.contour import contour_area, largest_contour, trace_contours
from wbcjax.roi.crop import crop, crops

__all__ = ["EXPANDED", "FAITHFUL", "color_roi", "color_rois", "contour_area", "crop", "crops", "largest_contour",
           "steps", "trace_contours"]
