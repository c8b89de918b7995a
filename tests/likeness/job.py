"""One training, as a program: leaves its metrics and, for each process, what it took of the data."""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from wbcjax import config as cfg
from wbcjax.data.detection_stream import DetectionStream
from wbcjax.data.device import DeviceStream
from wbcjax.data.instances import smear_arrays
from wbcjax.data.synthetic import draw
from wbcjax.models import build
from wbcjax.models.mask_rcnn import build_detector
from wbcjax.training import classification_loss, detector, evaluator, fit, layout
from wbcjax.training.distributed import initialize_distributed

OPTIM = cfg.OptimConfig(ema_decay=0.9)
BATCH = 16


def recorded(kind):
    """A class of stream that notes the names of this process's share of each batch."""
    class Recorded(kind):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.taken = []

        def __next__(self):
            batch = super().__next__()
            self.taken.append(self.names(batch))
            return batch

    return Recorded


def train_classifier(mesh, workdir):
    """Custom CNN 2 with batch norm, augmentation, mixup, dropout, moving average and early stopping."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 4
    images = np.clip(rng.normal(90 + 30 * labels[:, None, None, None], 40, (40, 64, 64, 3)), 0, 255).astype(np.uint8)
    stream = recorded(DeviceStream)(images, labels, [str(i) for i in range(40)], batch_size=BATCH, seed=0)
    train = cfg.TrainConfig(epochs=3, batch_size=BATCH, log_every=1, mixup=0.2, patience=5, mesh=mesh)
    model = build(cfg.ModelConfig(name="custom2", image_size=(64, 64)), 0)
    fit(model, stream, classification_loss(cfg.AugmentConfig(), train, num_classes=4), optim=OPTIM, train=train,
        workdir=workdir, evaluate=evaluator(model, images, labels, head="softmax"))
    return stream.taken


def train_detector(mesh, workdir):
    """A tiny Mask R-CNN with batch norm: augmentation, sampling, both stages, masks, evaluation."""
    config = cfg.from_dict(cfg.DetectorConfig, json.loads((workdir.parent / "config.json").read_text()))
    train = cfg.LoopConfig(epochs=3, batch_size=BATCH, log_every=1, mesh=mesh)
    cells = smear_arrays(draw(BATCH, (60, 80), seed=1), config.model.class_names, config.model.canvas)
    stream = recorded(DetectionStream)(cells, BATCH, 0)
    model = build_detector(config.model)
    fit(model, stream, detector.detection_loss(config), optim=OPTIM, train=train, workdir=workdir,
        evaluate=detector.evaluator(model, cells, batch_size=8))
    return stream.taken


if __name__ == "__main__":
    kind, workdir, fsdp = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    initialize_distributed()
    layout.SPLIT_FROM = 64
    counts = []
    plan = layout.layout_of

    def counting(*args, **options):
        made = plan(*args, **options)
        counts.append(sum(any(leaf.spec) for leaf in jax.tree.leaves(made["params"])))
        return made

    sys.modules["wbcjax.training.loop"].layout_of = counting
    order = {"classifier": train_classifier, "detector": train_detector}[kind](cfg.MeshConfig(fsdp=fsdp), workdir)
    told = {"devices": jax.device_count(), "order": order, "split": counts[0]}
    (workdir / f"told-{jax.process_index()}.json").write_text(json.dumps(told))
