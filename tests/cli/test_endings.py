"""How the program ends: read by nobody, stopped, told to stop, or with a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.cli.test_commands import invoke

PROGRAM = (sys.executable, "-m", "clustersim")
PATIENCE_S = 60.0
BUFFERED = {**os.environ, "PYTHONUNBUFFERED": ""}

POOL = """\
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
import clustersim.cli.app
from clustersim.cli.main import main

def work(_):
    time.sleep(100)

def stuck(**_):
    with ProcessPoolExecutor(2) as pool:
        futures = [pool.submit(work, i) for i in range(8)]
        print(*pool._processes, flush=True)
        [future.result() for future in futures]

clustersim.cli.app.app = stuck
main()
"""


@contextmanager
def started(*words: str, **options) -> Iterator[subprocess.Popen[str]]:
    """A program in a session of its own, which no child of it outlives, however the test ends."""
    pipe = subprocess.PIPE
    program = subprocess.Popen(
        words, stdout=pipe, stderr=pipe, text=True, start_new_session=True, **options
    )
    try:
        yield program
    finally:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.communicate()


def ended(*words: str, stdout: object) -> subprocess.CompletedProcess[str]:
    command, pipe = [*PROGRAM, *words], subprocess.PIPE
    return subprocess.run(command, stdout=stdout, stderr=pipe, text=True, check=False, env=BUFFERED)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["TERM", "INT", "KILL"],
)
def test_workers_do_not_outlive_the_program(number, code):
    with started(sys.executable, "-c", POOL) as program:
        assert program.stdout is not None
        workers = [int(word) for word in program.stdout.readline().split()]
        assert len(workers) == 2
        program.send_signal(number)
        _, said = program.communicate(timeout=PATIENCE_S)
        assert program.returncode == code
        assert "Traceback" not in said
        until = time.monotonic() + PATIENCE_S  # the kernel takes a moment to end a process
        while any(is_running(worker) for worker in workers):
            assert time.monotonic() < until
            time.sleep(0.1)


def test_ctrl_c_during_a_command_is_one_line(monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clustersim.run.simulate", interrupted)
    assert invoke("run", "smallest", code=130).stderr.splitlines()[-1] == "stopped by Ctrl-C"


def test_ctrl_c_during_imports_is_one_line():
    code = (
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from clustersim.cli.main import main\n"
        "main()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (130, "stopped by Ctrl-C\n")


@pytest.mark.parametrize(
    "words", [("run", "smallest"), ("run", "smallest", "--json"), ("run", "--help")]
)
def test_reader_that_went_away_is_no_answer(words):
    read, write = os.pipe()
    os.close(read)
    program = ended(*words, stdout=write)
    os.close(write)
    assert program.returncode == 141
    assert program.stderr.splitlines()[1:] == []  # one line where the run takes a second


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "words", [("run", "smallest"), ("run", "smallest", "--json"), ("run", "--help")]
)
def test_full_output_is_named(words):
    with open("/dev/full", "w") as full:
        program = ended(*words, stdout=full)
    assert program.returncode == 2
    assert "output: No space left on device\n" in program.stderr
    assert "Traceback" not in program.stderr


def test_program_ends_soon_after_it_is_told(tmp_path):
    with started(*PROGRAM, "validate", "--jobs", "2", cwd=tmp_path) as program:
        time.sleep(1.0)
        program.terminate()
        program.communicate(timeout=PATIENCE_S)
    assert program.returncode in (143, -signal.SIGTERM)  # the latter before it listens


IGNORED = "time.sleep(100)"


@pytest.mark.parametrize(
    "library",
    [IGNORED, "raise ValueError('vain')", "raise OSError('vain')", "raise SpecError('vain')"],
    ids=["ignored", "value", "system", "spec"],
)
def test_ending_that_a_library_took_is_an_ending(library):
    code = (
        "import os, signal, time\n"
        "import clustersim.cli.app\n"
        "from clustersim.cli import console, main, signals\n"
        "from clustersim.errors import SpecError\n"
        "def taken():\n"
        "    with console.answering():\n"
        "        try: os.kill(os.getpid(), signal.SIGTERM); time.sleep(100)\n"
        f"        except SystemExit: {library}\n"
        "signals.GRACE_S = 0.1\n"
        "clustersim.cli.app.app = lambda **_: __import__('typer').run(taken)\n"
        "main.main()\n"
    )
    with started(sys.executable, "-c", code) as program:
        _, said = program.communicate(timeout=PATIENCE_S)
    assert (program.returncode, said) == (143, "")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_a_signal_that_does_not_wake_the_main_thread_is_sent_again(number, code):
    text = (
        "import signal, threading, time\n"
        "import clustersim.cli.app\n"
        "from clustersim.cli import main\n"
        "def elsewhere():\n"
        "    time.sleep(0.3)\n"
        f"    signal.pthread_kill(threading.get_ident(), {int(number)})\n"
        "def waiting(**_):\n"
        "    threading.Thread(target=elsewhere).start()\n"
        "    threading.Event().wait()\n"
        "clustersim.cli.app.app = waiting\n"
        "main.main()\n"
    )
    with started(sys.executable, "-c", text) as program:
        program.communicate(timeout=PATIENCE_S)
    assert program.returncode == code
