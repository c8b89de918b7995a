"""What is in an image: true objects for training, and detections; padded to a fixed number of slots.

Labels are indices into the class names, without a background. Boxes are xyxy in pixels of the canvas, see
``wbcjax.typing``. What invalid slots hold does not matter.
"""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int, Shaped

from wbcjax.ops.boxes import AnyArray


class Instances(NamedTuple):
    """True objects of each image of a batch."""

    boxes: Float[AnyArray, "*b m 4"]
    """May reach beyond the image, as augmentation leaves them: the losses clip them, the masks refer to the whole."""
    labels: Int[AnyArray, "*b m"]
    valid: Bool[AnyArray, "*b m"]
    masks: Shaped[AnyArray, "*b m s s"]
    """The mask inside the whole box, 0 or 1, stretched to s × s (``ops.masks.crop_to_box``)."""


class Detections(NamedTuple):
    """Found objects of each image of a batch, by falling score."""

    boxes: Float[AnyArray, "*b d 4"]
    scores: Float[AnyArray, "*b d"]
    labels: Int[AnyArray, "*b d"]
    valid: Bool[AnyArray, "*b d"]
    masks: Float[AnyArray, "*b d p p"]
    """Probabilities inside the box."""
