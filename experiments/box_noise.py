"""How exact BCCD's boxes of white cells are, which limits the IoU that any detector can reach (Tables 3 and 8).

    python experiments/box_noise.py --data.root ROOT

| box compared with the published one           | mean IoU | median |
|-----------------------------------------------|----------|--------|
| of the published mask, with the usual margins | 0.895    | 0.901  |
| of the packaged compact detector              | 0.886    | 0.894  |
| mean of both                                  | 0.901    | 0.908  |
| a perfect one, if only the published were off | 0.908    | 0.914  |

On the 144 test images; margins from the 220 training images. Needs no training; under a minute.
"""

import sys
from dataclasses import dataclass

from wbcjax import cli
from wbcjax.cli.experiment import Experiment


@dataclass
class BoxNoise(Experiment):
    """Noise of the published boxes, from two estimates that do not see them."""

    name = "box_noise"

    def study(self) -> None:
        from wbcjax.pipeline.box_noise import box_noise_study

        box_noise_study(self.data, experiment=self.name, results=self.results)


if __name__ == "__main__":
    sys.exit(cli.script(BoxNoise, "box_noise.py"))
