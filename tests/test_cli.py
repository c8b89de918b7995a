"""The command line: verbs, bad input in one line with status 2, interruption, and what the verbs leave."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from wbcjax.cli import VERBS, load, main
from wbcjax.cli.parse import one_line

TINY = ["--model.name", "lenet", "--model.image_size", "16", "16", "--train.batch_size", "8", "--train.epochs", "1"]
COPIES = Path("blood-cells/dataset2-master/dataset2-master/images")
BCCD = Path("BCCD_Dataset/BCCD")


def refused(capsys, *argv: str) -> str:
    """Run a command that must fail as promised; its one line."""
    assert main([*map(str, argv)]) == 2
    captured = capsys.readouterr()
    # A progress bar may stand above; the message is the last line, and alone in speaking for wbcjax.
    lines = [line for line in captured.err.splitlines() if line.startswith("wbcjax:")]
    assert len(lines) == 1 and captured.err.splitlines()[-1] == lines[0]
    assert "Traceback" not in captured.err
    return lines[0]


@pytest.fixture
def root(synthetic_root, tmp_path) -> Path:
    """A copy of the tiny data root, to be damaged."""
    return Path(shutil.copytree(synthetic_root, tmp_path / "root"))


@pytest.fixture
def train(tmp_path):
    """The arguments of a tiny training run into tmp_path/run, with a cache of its own."""
    def arguments(data_root: Path, *more: str) -> list[str]:
        return ["train", "--data.root", str(data_root), "--data.cache_dir", str(tmp_path / "cache"), "--workdir",
                str(tmp_path / "run"), *TINY, *more]

    return arguments


@pytest.fixture(scope="module")
def run_folder(synthetic_root, tmp_path_factory) -> Path:
    """A finished tiny run on crops."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "--data.root", str(synthetic_root), "--data.cache_dir", str(folder.parent / "cache"),
                 "--workdir", str(folder), *TINY]) == 0
    return folder


def first_copy(root: Path) -> Path:
    return sorted((root / COPIES / "TRAIN" / "EOSINOPHIL").iterdir())[0]


def test_help_is_there_without_jax():
    code = ("import sys; from wbcjax.cli import main; main(['--help']); "
            "assert not {'jax', 'tyro', 'numpy'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_each_option_described(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([*verb.split(), "--help"])
    assert end.value.code == 0
    assert f"usage: wbcjax {verb}" in capsys.readouterr().out
    assert load(VERBS[verb][0]).__doc__


def test_no_verb_prints_the_overview(capsys):
    assert main([]) == 0 and main(["data"]) == 0 and main(["--version"]) == 0
    assert "usage: wbcjax VERB" in capsys.readouterr().out


@pytest.mark.parametrize(("argv", "message"), [
    (["trian"], "there is no verb 'trian'; did you mean 'train'?"),
    (["data", "chekc"], "there is no verb 'data chekc'; did you mean 'data check'?"),
    (["dta", "check"], "there is no verb 'dta'; did you mean 'data check'?"),
    (["xyz"], "there is no verb 'xyz'; the verbs are: reproduce, train"),
    (["train", "--train.epohcs", "3"], "unrecognized options: --train.epohcs, 3; perhaps you meant --train.epochs INT"),
    (["train", "--train.epochs", "ten"], "--train.epochs: expected a whole number, got 'ten'"),
    (["train", "--train.epochs", "0"], "train.epochs = 0 is impossible: expected >= 1"),
    (["train", "--train.epochs"], "missing value for argument '--train.epochs'"),
    (["train", "--optim.learning_rate", "fast"], "--optim.learning_rate: expected a number, got 'fast'"),
    (["train", "--optim.name", "lion"], "invalid choice 'lion' for argument '--optim.name'. Expected one of ('adam'"),
    (["train", "--model.image_size", "80"], "'--model.image_size'. Expected 2 values"),
    (["train", "--fold", "x"], "--fold: expected {None}|INT, got ['x']"),
    (["train", "--fold", "9"], "fold = 9 is impossible: expected 0..4 or None"),
    (["train", "--config"], "--config needs a path after it"),
    (["train", "--config", "absent.json"], "absent.json: no such configuration file"),
    (["train", "--data.root", "absent"], "absent: no such folder (data.root); check the path"),
    (["train", "--model.name", "alexnet"], "model.name = 'alexnet' is unknown; the models are: capsule, "),
    (["evaluate", "absent"], "absent: no such weights file; train first"),
    (["evaluate"], "missing from wbcjax evaluate: RUN"),
    (["predict", "absent", "a.jpg"], "absent: no such weights file; train first"),
    (["predict", "absent"], "predict needs image files after the run"),
    (["reproduce", "--preset", "fast"], "invalid choice 'fast' for argument '--preset'"),
    (["reproduce", "--preset", "paper"], "--preset paper needs the real data: give --data.root FOLDER"),
    (["reproduce", "--data.root", "absent"], "absent: no such folder (data.root)"),
    (["report", "--results", "absent"], "absent: no such folder of results"),
    (["report", "--readme", "--results", "absent"], "README.md: no such file"),
    (["data", "check", "absent"], "absent: no such folder"),
    (["data", "prepare", "absent"], "absent: no such folder"),
    (["data", "provenance", "absent"], "absent: no such folder"),
    (["data", "provenance", ".", "--out", "absent/x.csv"], "out = absent/x.csv: its folder does not exist"),
    (["data", "overlaps", "absent"], "absent: no such folder"),
    (["data", "synthetic", "new", "--copies_test", "0"], "synthetic: copies_test = 0 is impossible"),
])
def test_a_wrong_command_is_refused_in_one_line(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WBCJAX_DATA", raising=False)
    assert message in refused(capsys, *argv)
    assert not list(tmp_path.iterdir()), "something was left behind"


def truncate(root: Path) -> str:
    file = first_copy(root)
    file.write_bytes(file.read_bytes()[:-200])
    return f"{file}: truncated JPEG"


def empty(root: Path) -> str:
    first_copy(root).write_bytes(b"")
    return f"{first_copy(root)}: the file is empty (0 bytes)"


def png_named_jpg(root: Path) -> str:
    file = first_copy(root)
    file.write_bytes(cv2.imencode(".png", cv2.imread(str(file)))[1].tobytes())
    return f"{file}: is a PNG file named .jpeg; rename it"


def grey(root: Path) -> str:
    file = first_copy(root)
    cv2.imwrite(str(file), cv2.imread(str(file), cv2.IMREAD_GRAYSCALE))
    return f"{file}: a grey image, expected 8-bit RGB; convert it"


def text_named_jpg(root: Path) -> str:
    first_copy(root).write_text("no image")
    return f"{first_copy(root)}: not an image"


def empty_class(root: Path) -> str:
    folder = root / COPIES / "TRAIN" / "MONOCYTE"
    for file in folder.iterdir():
        file.unlink()
    return f"{folder}: holds no image"


def missing_class(root: Path) -> str:
    folder = root / COPIES / "TRAIN" / "MONOCYTE"
    shutil.rmtree(folder)
    return f"{folder}: no such folder"


def missing_split(root: Path) -> str:
    shutil.rmtree(root / COPIES)
    return f"{root}: holds no blood-cells"


@pytest.mark.parametrize("damage", [truncate, empty, png_named_jpg, grey, text_named_jpg, empty_class, missing_class,
                                    missing_split])
def test_damaged_images_stop_training_before_anything_is_written(damage, root, train, capsys, tmp_path):
    message = damage(root)
    line = refused(capsys, *train(root))
    assert message in line
    assert not (tmp_path / "run").exists()
    assert not list((tmp_path / "cache").glob(".*")), "a half-written cache file was left"


def edit_boxes(root: Path, change) -> str:
    file = sorted((root / BCCD / "Annotations").glob("*.xml"))[0]
    file.write_text(change(file.read_text()))
    return file.stem


def no_boxes(root: Path) -> str:
    return edit_boxes(root, lambda xml: xml[: xml.index("<object>")] + "</annotation>")


def no_area(root: Path) -> str:
    def change(xml: str) -> str:
        x0 = xml.split("<xmin>")[1].split("<")[0]
        x1 = xml.split("<xmax>")[1].split("<")[0]
        return xml.replace(f"<xmax>{x1}<", f"<xmax>{x0}<", 1)

    return edit_boxes(root, change)


def outside(root: Path) -> str:
    def change(xml: str) -> str:
        x1 = xml.split("<xmax>")[1].split("<")[0]
        return xml.replace(f"<xmax>{x1}<", "<xmax>9999<", 1)

    return edit_boxes(root, change)


@pytest.mark.parametrize("damage", [no_boxes, no_area, outside])
def test_bad_annotations_fail_a_strict_check_by_name(damage, root, capsys):
    name = damage(root)
    assert name in refused(capsys, "data", "check", root, "--strict")
    assert main(["data", "check", str(root)]) == 0
    assert name in capsys.readouterr().out


def test_an_annotation_that_is_no_xml_is_named(root, train, capsys):
    file = sorted((root / BCCD / "Annotations").glob("*.xml"))[0]
    file.write_text("<annotation>")
    assert f"{file}: not valid XML" in refused(capsys, *train(root, "--roi_source", "oracle"))


@pytest.mark.parametrize(("text", "message"), [
    ('{"optim": {"lr": 1}}', "optim (OptimConfig) has no field 'lr'; its fields are: accumulate"),
    ('{"train": {"epochs": 0}}', "train.epochs = 0 is impossible: expected >= 1"),
    ('{"model": {"head": "tanh"}}', "model.head = 'tanh' is impossible: expected one of softmax, sigmoid"),
    ("{", "not JSON"),
    ("[]", "ClassifierConfig = [] is impossible: expected a table of fields"),
])
def test_a_config_file_with_a_mistake_names_file_and_field(text, message, train, synthetic_root, capsys, tmp_path):
    (tmp_path / "bad.json").write_text(text)
    line = refused(capsys, *train(synthetic_root, "--config", str(tmp_path / "bad.json")))
    assert f"{tmp_path / 'bad.json'}: " in line and message in line
    assert not (tmp_path / "run").exists()


def test_flags_win_over_the_config_file(tmp_path, synthetic_root, capsys):
    (tmp_path / "base.json").write_text(json.dumps({"input": "whole", "model": {"name": "alexnet"}}))
    argv = ["train", f"--config={tmp_path / 'base.json'}", "--data.root", str(synthetic_root), "--model.name", "vgg"]
    assert "model.name = 'vgg'" in refused(capsys, *argv)


def test_an_existing_run_needs_resume_and_the_same_config(run_folder, synthetic_root, capsys):
    before = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*")}
    base = ["train", "--data.root", str(synthetic_root), "--workdir", str(run_folder)]
    assert "holds a run already; --resume continues it" in refused(capsys, *base, *TINY)
    other = refused(capsys, *base, *TINY, "--resume", "--model.name", "custom1")
    assert "holds a run of another config (model.name is 'lenet' there, 'custom1' here)" in other
    assert {path: path.stat().st_mtime_ns for path in run_folder.rglob("*")} == before


def test_resume_needs_a_run(synthetic_root, train, capsys, tmp_path):
    assert "no checkpoint here to resume" in refused(capsys, *train(synthetic_root, "--resume"))
    assert not (tmp_path / "run").exists()


def test_weights_of_another_model_or_damaged_are_named(run_folder, synthetic_root, capsys, tmp_path):
    from safetensors.numpy import load_file, save_file

    broken = tmp_path / "broken.safetensors"
    broken.write_bytes((run_folder / "weights.safetensors").read_bytes()[:500])
    assert f"{broken}: not a safetensors file, or damaged" in refused(capsys, "evaluate", broken)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": np.zeros(3, np.float32)}, foreign)
    assert f"{foreign}: safetensors, but not written by wbcjax" in refused(capsys, "predict", foreign, "x.jpg")
    other = tmp_path / "other.safetensors"
    config = json.loads((run_folder / "config.json").read_text())
    config["model"]["name"] = "custom1"
    save_file(load_file(run_folder / "weights.safetensors"), other,
              metadata={"format": "wbcjax", "config": json.dumps(config)})
    assert f"{other}: weights of another model: " in refused(capsys, "evaluate", other, "--data.root", synthetic_root)


def test_evaluate_prints_and_writes_results(run_folder, synthetic_root, capsys, tmp_path):
    out = tmp_path / "results.json"
    cache = ["--data.cache_dir", str(tmp_path / "cache")]
    assert main(["evaluate", str(run_folder), "--data.root", str(synthetic_root), *cache, "--out", str(out)]) == 0
    assert "Accuracy on TEST" in capsys.readouterr().out
    rows = json.loads(out.read_text())["rows"]
    images = sum(row["value"] for row in rows if row["metric"] == "confusion")
    assert images == 12 and {row["model"] for row in rows} == {"lenet"}
    assert "split 'VALID' is unknown" in refused(capsys, "evaluate", run_folder, "--split", "VALID", "--data.root",
                                                 synthetic_root)


def test_predict_names_class_and_box(run_folder, synthetic_root, capsys, tmp_path):
    files = sorted((synthetic_root / BCCD / "JPEGImages").glob("*.jpg"))[:2]
    plain = tmp_path / "plain.png"
    cv2.imwrite(str(plain), np.full((240, 320, 3), 230, np.uint8))
    assert main(["predict", str(run_folder), *map(str, files), str(plain), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == [*map(str, files), str(plain)]
    assert all(abs(sum(line["probabilities"].values()) - 1) < 1e-3 for line in lines)
    assert all(line["class"] == max(line["probabilities"], key=line["probabilities"].get) for line in lines)
    assert len(lines[0]["box"]) == 4 and not lines[0]["missed"]
    assert lines[2]["box"] is None and lines[2]["missed"]
    assert main(["predict", str(run_folder), str(plain)]) == 0
    assert "no cell found: whole image" in capsys.readouterr().out
    assert "absent.jpg: no such image" in refused(capsys, "predict", run_folder, "absent.jpg")


def test_report_and_readme(run_folder, synthetic_root, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    evaluate = ["evaluate", str(run_folder), "--data.root", str(synthetic_root)]
    assert main([*evaluate, "--out", "results/table9_x.json"]) == 0
    assert main(["report", "--results", "results", "--out", "r.html"]) == 0
    assert "Accuracy on TEST" in Path("r.html").read_text()
    Path("README.md").write_text("# x\n<!-- results:begin -->\n<!-- results:end -->\n")
    assert main(["report", "--readme", "--results", "results"]) == 0
    assert main(["report", "--readme", "--results", "results"]) == 0
    assert "README.md: tables updated\nREADME.md: up to date" in capsys.readouterr().out
    assert "LeNet" in Path("README.md").read_text()
    Path("MODEL_CARD.md").write_text("<!-- results:begin table9-TEST --><!-- results:end -->")
    assert main(["report", "--readme", "--results", "results"]) == 0
    assert "README.md: up to date\nMODEL_CARD.md: tables updated" in capsys.readouterr().out
    assert main(["report", "--readme", "--results", "results", "--documents", "MODEL_CARD.md"]) == 0
    assert capsys.readouterr().out == "MODEL_CARD.md: up to date\n"


def test_a_folder_that_cannot_be_written_is_one_line(synthetic_root, train, capsys, tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    assert f"{tmp_path / 'run'}" in refused(capsys, *train(synthetic_root))


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_training_is_saved_and_goes_on(signal_number, synthetic_root, train, capsys, tmp_path):
    argv = train(synthetic_root, "--train.epochs", "100", "--train.log_every", "1", "--train.checkpoint_every", "99")
    process = subprocess.Popen([sys.executable, "-m", "wbcjax", *argv], stderr=subprocess.PIPE, text=True,
                               env=os.environ | {"JAX_PLATFORMS": "cpu"})
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 2):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal_number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert f"--resume --workdir {tmp_path / 'run'} goes on" in errors.splitlines()[-1]
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    assert main([*argv, "--resume"]) == 0
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 100 * 3


def test_one_line_of_an_unknown_layout_still_says_something():
    assert one_line("") == "the arguments are not understood"
    assert one_line("╭ x ╮\n│ Something new. │\n╰──╯") == "something new"
