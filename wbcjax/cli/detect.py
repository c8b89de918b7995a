"""``wbcjax detect``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from wbcjax.errors import ConfigError


@dataclass
class Detect:
    """Find the cells in images of any size: box, class, score and mask of each.

    Writes a PNG for each image with the cells drawn, detections.json (COCO, with masks) and detections.csv.
    """

    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGE...")]
    """Image files, or folders of them."""
    weights: Path | None = None
    """Folder of a detector's run, or its weights file; None takes the compact one that comes with the package."""
    out: Path = Path("detections")
    """Folder to write into."""
    score: float = 0.5
    """Cells of a lower score are left out."""
    batch_size: int = 8
    """Images computed at once."""

    def run(self) -> int:
        from wbcjax.config import DataConfig
        from wbcjax.pipeline.detection_files import image_files, names_below, write_detections
        from wbcjax.pipeline.detector import Detector, as_image
        from wbcjax.pipeline.process import set_up_process

        if not self.images:
            raise ConfigError("detect needs image files: wbcjax detect IMAGE...")
        if not 0 <= self.score <= 1 or self.batch_size < 1:
            raise ConfigError(f"score = {self.score}, batch_size = {self.batch_size} is impossible: expected a score "
                              "in 0..1 and a batch of at least 1")
        files = image_files(self.images)
        names = names_below(files)
        set_up_process(DataConfig())
        detector = Detector.load(self.weights)
        images = [as_image(file) for file in files]
        found = detector(images, score_threshold=self.score, batch_size=self.batch_size)
        write_detections(self.out, names, images, found, detector.class_names)
        for file, objects in zip(files, found, strict=True):
            listed = [f"{detector.class_names[label]} {score:.2f} at [{', '.join(f'{c:.0f}' for c in box)}]"
                      for box, score, label in zip(objects.boxes, objects.scores, objects.labels, strict=True)]
            print(f"{file}: {'; '.join(listed) or 'nothing found'}")
        print(self.out)
        return 0
