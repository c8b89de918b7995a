"""The study of the paper's Table 1: how many images of each class there are."""

import time
from pathlib import Path

import numpy as np

from wbcjax import config as cfg
from wbcjax.data.kaggle import kaggle
from wbcjax.evaluation.results import row, write_results
from wbcjax.pipeline.inputs import data_root
from wbcjax.pipeline.rows import Rows
from wbcjax.pipeline.studies import proven_fingerprint
from wbcjax.typing import CLASS_NAMES

PAPER_IMAGES = {"TRAIN": (2497, 2483, 2478, 2499), "TEST": (623, 620, 620, 624)}
"""The paper's Table 1, in the order of ``CLASS_NAMES``."""


def counts_study(data: cfg.DataConfig, *, experiment: str, results: Path) -> Rows:
    """Images and originals of each class in TRAIN and TEST; writes ``results/<experiment>.json``."""
    started = time.perf_counter()
    sets = {split: kaggle(data_root(data), split, strict=data.strict) for split in PAPER_IMAGES}
    rows = []
    for split, items in sets.items():
        counts = np.bincount(items.labels, minlength=len(CLASS_NAMES))
        for name, count, paper in zip(CLASS_NAMES, counts.tolist(), PAPER_IMAGES[split], strict=True):
            rows.append(row(model="data", input="whole", split=split, metric="images", class_name=name, value=count,
                            paper=paper))
            of_class = {source for source, label in zip(items.sources, items.labels, strict=True)
                        if CLASS_NAMES[label] == name}
            rows.append(row(model="data", input="whole", split=split, metric="originals", class_name=name,
                            value=len(of_class)))
    originals = ", ".join(f"{len(set(items.sources))} {split}" for split, items in sets.items())
    write_results(
        results / f"{experiment}.json",
        experiment=experiment,
        config={},
        rows=rows,
        seeds=0,
        data_fingerprint=proven_fingerprint(data),
        wall_time=time.perf_counter() - started,
        notes=(f"Copies of {originals} originals; no original is on both sides.",),
    )
    return rows
