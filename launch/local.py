"""One command as N processes on this host, joined by JAX into one program.

    python launch/local.py -n 4 -- wbcjax train --workdir runs/four              # one GPU a process
    python launch/local.py -n 2 --cpu-devices 2 -- wbcjax train --workdir runs/cpu
    python launch/local.py -n 4 --dry-run -- wbcjax train                        # what it would start

One process uses all devices of a host already, so this serves hosts where each process should have its own, and tries
out on one machine what SLURM, TPU slices and Kubernetes do on many. Lines of output begin with the process's number.
The first process that fails ends the others, and its exit status is that of the whole. Ctrl-C and SIGTERM are passed
on: training saves a checkpoint and ends; a second Ctrl-C ends at once.
"""

import argparse
import os
import queue
import shlex
import signal
import socket
import subprocess
import sys
import threading
from typing import IO

GRACE = 10.0
"""Seconds that processes have to end when another has failed, before they are killed."""


def main(argv: list[str] | None = None) -> int:
    """Start the processes and wait for them; the exit status."""
    parser = argparse.ArgumentParser(prog="launch/local.py", description="One command as N processes on this host.")
    parser.add_argument("-n", type=int, required=True, metavar="N", help="number of processes")
    parser.add_argument("--cpu-devices", type=int, metavar="K", help="K CPU devices a process, and no accelerator")
    parser.add_argument("--gpus", type=int, default=1, metavar="K", help="GPUs a process (default 1)")
    parser.add_argument("--port", type=int, help="of process 0; a free one is chosen")
    parser.add_argument("--dry-run", action="store_true", help="print what would be started")
    parser.add_argument("command", nargs="+", help="after --: the command")
    options = parser.parse_args(argv)
    if options.n < 1:
        parser.error(f"-n {options.n}: expected at least one process")
    own = [environment(rank, options) for rank in range(options.n)]
    if options.dry_run:
        for variables in own:
            print(*(f"{name}={shlex.quote(value)}" for name, value in variables.items()), shlex.join(options.command))
        return 0
    return run(options.command, own)


def environment(rank: int, options: argparse.Namespace) -> dict[str, str]:
    """The variables that tell a process which one it is and which devices are its own."""
    if not options.port:
        options.port = free_port()
    address = f"127.0.0.1:{options.port}"
    variables = {"WBCJAX_COORDINATOR": address, "WBCJAX_NUM_PROCESSES": str(options.n), "WBCJAX_PROCESS_ID": str(rank),
                 "JAX_COORDINATOR_BIND_ADDRESS": address, "PYTHONUNBUFFERED": "1"}
    if options.cpu_devices:
        return variables | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(options.cpu_devices)}
    first = rank * options.gpus
    return variables | {"JAX_LOCAL_DEVICE_IDS": ",".join(map(str, range(first, first + options.gpus)))}


def run(command: list[str], own: list[dict[str, str]]) -> int:
    """Start one process for each set of variables; returns the status of the first that fails, 0 if none does."""
    processes: list[subprocess.Popen] = []
    ended: queue.Queue[tuple[int, int]] = queue.Queue()

    def pass_on(signum: int, frame: object) -> None:
        send(processes, signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, pass_on)
    relays = []
    for rank, variables in enumerate(own):
        try:
            # A session of its own: the terminal sends Ctrl-C to this program alone, which passes it on once.
            process = subprocess.Popen(command, env=os.environ | variables, start_new_session=True,
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except OSError as error:
            send(processes, signal.SIGKILL)
            say(f"{command[0]}: {error.strerror}; check the command after --")
            return 127
        processes.append(process)
        for pipe, to in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            relays.append(threading.Thread(target=relay, args=(pipe, to, f"[{rank}] "), daemon=True))
        threading.Thread(target=lambda r=rank, p=process: ended.put((r, p.wait())), daemon=True).start()
    for thread in relays:
        thread.start()

    status, reaper = 0, None
    for _ in processes:
        rank, code = ended.get()
        if code and not status:
            status = code if code > 0 else 128 - code  # as a shell says it
            reason = f"status {code}" if code > 0 else signal.Signals(-code).name
            say(f"process {rank} of {len(processes)} ended with {reason}; ending the others")
            send(processes, signal.SIGTERM)
            # Those that wait for the one that is gone do not hear SIGTERM.
            reaper = threading.Timer(GRACE, send, (processes, signal.SIGKILL))
            reaper.daemon = True
            reaper.start()
    if reaper:
        reaper.cancel()
    for thread in relays:
        thread.join(timeout=5)
    return status


def send(processes: list[subprocess.Popen], signum: int) -> None:
    """A signal to every process that is still there; SIGKILL to what they have started, too."""
    for process in processes:
        if process.poll() is None:
            (os.killpg if signum == signal.SIGKILL else os.kill)(process.pid, signum)


def relay(pipe: IO[bytes], to: IO[str], prefix: str) -> None:
    """Copy lines, each behind ``prefix`` and whole."""
    for line in pipe:
        to.write(prefix + line.decode(errors="replace").rstrip("\n") + "\n")
        to.flush()


def say(text: str) -> None:
    """One line on standard error."""
    print(f"launch/local.py: {text}", file=sys.stderr, flush=True)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
