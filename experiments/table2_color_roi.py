"""Table 2: IoU of the colour ROI, faithful and expanded, on the detector's test images and on all of BCCD.

Needs no training; a few seconds. `python experiments/table2_color_roi.py --data.root DATA`
"""

from dataclasses import dataclass, field
from pathlib import Path

from wbcjax.config import DataConfig


@dataclass(frozen=True)
class Table2:
    data: DataConfig = field(default_factory=DataConfig)
    results: Path = Path(__file__).parent / "results"
    """Folder the results file is written to."""


def main(config: Table2) -> None:
    from wbcjax.evaluation.results import read_results
    from wbcjax.pipeline.localisation import color_roi_study
    from wbcjax.report.render import print_tables
    from wbcjax.report.tables import build_tables

    color_roi_study(config.data, experiment="table2_color_roi", results=config.results)
    print_tables(build_tables([read_results(config.results / "table2_color_roi.json")]))


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Table2))
