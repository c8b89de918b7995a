"""Metrics file and console."""

import json
import sys
import types

import pytest

from wbcjax.training.writers import ConsoleProgress, MetricsWriter


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_one_json_object_a_line(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"loss": 0.5})
    assert records(tmp_path) == [{"step": 1, "loss": 0.5}]  # on disk at once
    writer.write(2, {"loss": 0.25})
    writer.close()
    assert [r["step"] for r in records(tmp_path)] == [1, 2]


def test_a_fresh_run_starts_an_empty_file(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 4}\n')
    MetricsWriter(tmp_path).close()
    assert records(tmp_path) == []


def test_resuming_drops_later_lines_and_unfinished_ones(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 3, "lo')
    writer = MetricsWriter(tmp_path, resume_step=2)
    writer.write(3, {"loss": 1.0})
    writer.close()
    assert records(tmp_path) == [{"step": 1}, {"step": 2}, {"step": 3, "loss": 1.0}]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_tensorboard_gets_the_finite_numbers(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            written.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    writer = MetricsWriter(tmp_path, tensorboard=True)
    writer.write(3, {"loss": 0.5, "bad": float("nan"), "note": "text"})
    writer.close()
    assert written == [(str(tmp_path), None), ("loss", 0.5, 3), "closed"]
    MetricsWriter(tmp_path, resume_step=3, tensorboard=True).close()
    assert written[3] == (str(tmp_path), 4)  # events of the steps that are repeated go


def test_without_a_terminal_the_console_gets_one_line_with_the_time_left(capsys):
    progress = ConsoleProgress("lenet", total=20, start=10)
    progress._since -= 60  # five of the ten steps took a minute
    progress.update(15, 0.5, {"images_per_second": 1234.5})
    progress.line("epoch 3/4", 15, {"loss": 0.51239, "valid_loss": 2.0},
                  {"images_per_second": 1234.5, "input_wait": 0.034, "flops_per_second": 2.5e12, "peak_share": 0.125,
                   "compile_seconds": 7.25})
    progress.line("epoch 4/4", 20, {"loss": 0.5}, {"flops_per_second": 2.5e9})
    progress.speed({})
    progress.speed({"images_per_second": 99.6, "input_wait": 0.5, "compile_seconds": 2.0})
    progress.note("stopped early")
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "lenet: epoch 3/4  loss 0.5124  valid_loss 2  1,234 images/s  2,500 GFLOP/s  12% of peak  3% input wait  "
        "compiled in 7.2 s  0:01:00 left",
        "lenet: epoch 4/4  loss 0.5  2.5 GFLOP/s",
        "lenet: 100 images/s  – GFLOP/s  – of peak  50% input wait  compiled in 2.0 s",
        "lenet: stopped early",
    ]


def test_other_processes_write_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"loss": 1.0})
    writer.close()
    progress = ConsoleProgress("lenet", total=2)
    progress.line("epoch 1/1", 2, {}, {})
    progress.close()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""


def test_the_file_is_closed_when_training_fails(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.close()
    with pytest.raises(ValueError, match="closed file"):
        writer.write(1, {})
