"""The whole pipeline: data, counts, colour ROI, training, evaluation, noise, figures, report.

Every stage writes its results as one file, and is reused when that file is there for the same config and the same
data; so an interrupted or repeated call goes on where it has to.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wbcjax import config as cfg
from wbcjax.console import progress_console
from wbcjax.data.check import check
from wbcjax.data.synthetic import write_dataset
from wbcjax.data.voc import voc
from wbcjax.errors import DataError
from wbcjax.evaluation.results import environment, read_results
from wbcjax.files import write_text
from wbcjax.pipeline import localisation
from wbcjax.pipeline.counts import counts_study
from wbcjax.pipeline.detector import PACKAGED, Detector
from wbcjax.pipeline.detector_presets import compact
from wbcjax.pipeline.detector_runs import bccd
from wbcjax.pipeline.detector_study import detector_evaluation, ensure_detector
from wbcjax.pipeline.inputs import data_root
from wbcjax.pipeline.pictures import draw_figures
from wbcjax.pipeline.presets import Preset, SyntheticData
from wbcjax.pipeline.studies import (
    Splits,
    classification_study,
    ensure_trained,
    noise_study,
    proven_fingerprint,
    run_folder,
)
from wbcjax.pipeline.workdir import is_finished, portable, stored_config
from wbcjax.report.html import write_report
from wbcjax.report.tables import load_results
from wbcjax.training.distributed import all_agree

SYNTHETIC_NOTICE = (
    "These numbers come from a few synthetic smears and models trained for seconds. They show that the pipeline works, "
    "and say nothing about the paper's figures beside them."
)
STAGES = 9


@dataclass(frozen=True)
class Outcome:
    """What a reproduction leaves."""

    results: list[dict[str, Any]]
    report: Path
    synthetic: bool


class Stages:
    """Numbered headings and progress bars on the console; off a terminal, one line a stage."""

    def __init__(self, console: Console):
        self.console = console
        self._number = 0

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Heading of a stage that has bars of its own, and its time at the end."""
        self._number += 1
        heading = f"[{self._number}/{STAGES}] {title}"
        self.console.print(heading, style="bold", highlight=False, markup=False)
        started = time.perf_counter()
        yield
        self.console.print(f"      {time.perf_counter() - started:.1f} s", style="dim", highlight=False)

    @contextmanager
    def bar(self, title: str, total: int | None = 1) -> Iterator[Callable[[int, int], None]]:
        """A bar to be told (done, total)."""
        columns = (TextColumn("      {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TimeRemainingColumn())
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as progress:
            task = progress.add_task(title, total=total)
            yield lambda done, total: progress.update(task, completed=done, total=total)

    def reused(self, what: str) -> None:
        """Say that something was there already."""
        self.console.print(f"      {what}: reused", style="dim", highlight=False)


def reproduce(preset: Preset, data: cfg.DataConfig, out: Path, console: Console | None = None) -> Outcome:
    """Run every stage of ``preset`` that is not done yet, below the folder ``out``.

    Args:
      data: with ``root`` None, synthetic smears are drawn into the cache folder, once.

    Raises:
      DataError: for a data root that is missing or damaged, or shares originals between TRAIN and TEST.
      Interrupted: if training was stopped by a signal; the same call goes on.
    """
    stages = Stages(console or progress_console())
    results = out / "results"
    synthetic = data.root is None or (data.root.expanduser() / "synthetic.json").is_file()
    notes = (SYNTHETIC_NOTICE,) if synthetic else ()

    with stages.stage("Data"):
        if data.root is None:
            data = replace(data, root=synthetic_root(data.cache_dir, stages))
        root = data_root(data)
        stages.console.print(f"      {root}", style="dim", highlight=False, soft_wrap=True)
        fingerprint = proven_fingerprint(data)

    with stages.stage("Data check (Table 1)"):
        if not is_done(results / "table1_data.json", {}, fingerprint, stages):
            found = check(root, progress=True)
            write_text(out / "data_check.txt", found.text() + "\n")
            stages.console.print(f"      {len(found.anomalies)} anomalies, listed in {out / 'data_check.txt'}",
                                 style="dim", highlight=False, soft_wrap=True)
            counts_study(data, experiment="table1_data", results=results)

    with stages.stage("Colour ROI (Tables 2 and 8)"):
        variants = {name: cfg.to_dict(variant) for name, variant in localisation.VARIANTS.items()}
        boxes = localisation.fingerprint(voc(root, strict=False))
        if not is_done(results / "table2_color_roi.json", variants, boxes, stages):
            with stages.bar("locating") as advance:
                localisation.color_roi_study(data, experiment="table2_color_roi", results=results, progress=advance)

    with stages.stage("Mask R-CNN (Tables 3 and 8)"):
        detector = detector_weights(preset, data, out / "runs")
        if detector is None:
            stages.console.print("      none in this preset", style="dim", highlight=False)
        else:
            stated = portable(stored_config(cfg.DetectorConfig, detector)[1])
            boxes = localisation.fingerprint(bccd(data)["corrected"])
            if not is_done(results / "table3_mask_rcnn.json", stated, boxes, stages):
                detector_evaluation(Detector.load(detector), data, results / "table3_mask_rcnn.json", notes=notes)

    splits = Splits()
    with stages.stage(f"Training {', '.join(preset.models)} on {' and '.join(preset.inputs)}"):
        for config in preset.configs(data):
            folder = run_folder(out / "runs", config)
            if is_finished(folder, config):
                stages.reused(folder.name)
            else:
                ensure_trained(config, out / "runs", splits)
    splits.progress = False  # the stages below have a bar already

    with stages.stage("Evaluation (Tables 4 to 7 and 9)"):
        for input, experiment in (("whole", "table4_5_custom_whole"), ("roi", "table6_7_custom_roi")):
            configs = preset.configs(data, input)
            target = results / f"{experiment}.json"
            if not is_done(target, {"runs": [portable(config) for config in configs]}, fingerprint, stages):
                with stages.bar(experiment, len(configs)) as advance:
                    classification_study(configs, experiment=experiment, runs=out / "runs", results=results,
                                         notes=notes, progress=advance, splits=splits)

    with stages.stage("Noise (Figure 12)"):
        configs = preset.configs(data)
        stated = {"runs": [portable(config) for config in configs], "noise": cfg.to_dict(preset.noise)}
        if not is_done(results / "fig12_noise.json", stated, fingerprint, stages):
            with stages.bar("noise sweep", len(configs)) as advance:
                noise_study(configs, preset.noise, experiment="fig12_noise", runs=out / "runs", results=results,
                            notes=notes, progress=advance, splits=splits)

    figures = out / "figures"
    with stages.stage("Figures"):
        stamp, state = figures / ".drawn", results_digest(results)
        if stamp.is_file() and stamp.read_text() == state:
            stages.reused("figures")
        else:
            with stages.bar("drawing") as advance:
                draw_figures(preset, data, out / "runs", results, figures, splits, detector, advance)
            stamp.write_text(state)

    with stages.stage("Report"):
        resolved = {"preset": preset.name, "runs": [portable(config) for config in preset.configs(data)],
                    "noise": cfg.to_dict(preset.noise)}
        report = write_report(results, figures, out / "report.html", config=resolved, environment=environment(),
                              notice=SYNTHETIC_NOTICE if synthetic else "")
    return Outcome(load_results(results), report, synthetic)


def detector_weights(preset: Preset, data: cfg.DataConfig, runs: Path) -> Path | None:
    """The detector that a preset measures, trained if it has to be; None without one.

    Raises:
      Interrupted: if training was stopped by a signal.
    """
    if preset.detector == "compact":
        return ensure_detector(replace(compact(), data=data), runs, bccd(data)["corrected"])
    return PACKAGED if preset.detector == "packaged" and PACKAGED.is_file() else None


def synthetic_root(cache_dir: Path, stages: Stages) -> Path:
    """The synthetic data root of the quick preset, drawn if it is not there."""
    asked = SyntheticData()
    root = asked.folder(cache_dir)
    if root.is_dir():
        stages.reused("synthetic smears")
        return root
    try:
        with stages.bar("drawing smears", None) as advance:
            write_dataset(root, train_originals=asked.train_originals, test_originals=asked.test_originals,
                          copies_train=asked.copies_train, copies_test=asked.copies_test, two_cells=asked.two_cells,
                          seed=asked.seed, progress=advance)
    except (DataError, OSError):
        if not root.is_dir():  # else another process has drawn the same
            raise
    return root


def is_done(path: Path, config: Mapping[str, Any], fingerprint: str, stages: Stages) -> bool:
    """Whether ``path`` holds valid results of this config on this data."""
    try:
        found = read_results(path)
        done = found["config"] == json.loads(json.dumps(config)) and found["data_fingerprint"] == fingerprint
    except DataError:  # missing, damaged, or of another version: made again
        done = False
    done = all_agree(done)  # the first process may have just written what another did not find
    if done:
        stages.reused(path.stem)
    return done


def results_digest(results: Path) -> str:
    """Changes whenever a results file does."""
    digest = hashlib.sha256()
    for path in sorted(results.glob("*.json")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
