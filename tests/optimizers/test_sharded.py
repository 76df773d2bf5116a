"""Two processes that share weights out by FSDP2 make the steps of one."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("two_processes.py")


def test_two_processes_make_the_steps_of_one(tmp_path):
    commands = [[sys.executable, str(SCRIPT), str(rank), str(tmp_path)] for rank in (0, 1)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command in commands
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], "\n".join(said)
