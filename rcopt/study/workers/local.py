"""Several workers on this machine: started, watched, stopped together."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from rcopt.processes import module_command
from rcopt.progress import Progress
from rcopt.study.file import Study
from rcopt.study.workers.slots import check_shareable

#: Seconds that workers have to stop after a signal before they are killed.
GRACE = 15.0


def run_local_workers(
    study: Study, count: int, options: Sequence[str], *, progress: Progress
) -> None:
    """Run ``rcopt worker`` so many times at once, until all have ended.

    Each is a process of its own, so that one that is killed takes no other with it; what a
    worker could not finish the others do, and the caller goes on alone with what all of them
    left. With several GPUs each worker gets one, in turn; on the CPU they share the cores.

    Args:
        study: What to work on.
        count: Number of workers.
        options: More of the command line of each.
        progress: Told what each says, behind its number.

    Raises:
        InputError: If the study's storage serves only one worker.
        KeyboardInterrupt: If interrupted; all workers are stopped then.
    """
    check_shareable(study)
    devices = _devices(study.settings.training.device)
    environment = os.environ.copy()
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    command = [*module_command("rcopt.cli"), "worker", str(study.file), *options]
    with _stopped_together() as processes:
        readers = []
        for number in range(count):
            device = ["--device", devices[number % len(devices)]] if devices else []
            process = subprocess.Popen(
                [*command, *device],
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env=environment,
                text=True,
                # Ctrl-C reaches the parent alone, which then tells them, each once.
                start_new_session=True,
            )
            processes.append(process)
            reader = threading.Thread(
                target=_relay, args=(number, process.stderr, progress), daemon=True
            )
            reader.start()
            readers.append(reader)
        for number, process in enumerate(processes):
            code = process.wait()
            readers[number].join()
            if code:
                how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                progress.note(f"worker {number} {how}; the others go on")


def _relay(number: int, lines: IO[str] | None, progress: Progress) -> None:
    for line in lines or ():
        progress.note(f"[{number}] {line.rstrip()}")


def _devices(device: str) -> list[str]:
    """Return every GPU where the study leaves the device open and there are several."""
    if device != "auto":
        return []
    import torch

    count = torch.cuda.device_count()
    return [f"cuda:{number}" for number in range(count)] if count > 1 else []


@contextmanager
def _stopped_together() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    try:
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
