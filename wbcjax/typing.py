"""Array types and the conventions that hold everywhere.

Boxes are xyxy: ``(x_min, y_min, x_max, y_max)``, float, absolute pixels, continuous. Pixel ``i`` covers ``[i, i + 1]``,
so the box of the single pixel (0, 0) is ``(0, 0, 1, 1)`` and width is ``x_max - x_min``.

Images are RGB, ``(height, width, 3)``: uint8 in 0..255 on the host, float in [0, 1] inside the models.
Sizes are ``(height, width)``. Affine maps take ``(x, y)`` to ``(x, y)``.
"""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

Array = jax.Array
Box = Float[np.ndarray, "4"]
Boxes = Float[np.ndarray, "n 4"]
Image = UInt8[np.ndarray, "height width 3"]
Images = UInt8[np.ndarray, "n height width 3"]
Size = tuple[int, int]
Predict = Callable[[Float[Array, "b h w 3"]], Float[Array, "b c"]]
"""Images in [0, 1] to logits."""

CLASS_NAMES = ("eosinophil", "lymphocyte", "monocyte", "neutrophil")
"""The four classes of the paper, in the order of every label, logit and confusion matrix."""

DETECTION_CLASS_NAMES = ("wbc", "rbc", "platelets")
"""The three classes of the BCCD boxes, in label order."""

__all__ = ["CLASS_NAMES", "DETECTION_CLASS_NAMES", "Array", "Bool", "Box", "Boxes", "Float", "Image", "Images", "Int",
           "Predict", "Size", "UInt8"]
