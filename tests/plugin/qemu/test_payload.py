"""The model runs the same machine code as the agent."""

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from nestscope.sim.payload import PAYLOAD, STUB


def test_the_model_knows_the_code_that_the_agent_has() -> None:
    source = Path(__file__).parents[3] / "plugin/qemu/agent/payload.S"
    compiler, linker = (shutil.which(f"powerpc64le-linux-gnu-{tool}") for tool in ("gcc", "ld"))
    if compiler is None or linker is None:
        pytest.skip("the cross compiler is not there")
    with TemporaryDirectory() as folder:
        made = Path(folder) / "payload.o", Path(folder) / "payload.bin"
        subprocess.run([compiler, "-c", "-o", made[0], source], check=True)
        linking = ["-Ttext", "0", "--oformat", "binary", "-e", "0"]
        subprocess.run([linker, *linking, "-o", made[1], made[0]], check=True)
        code = made[1].read_bytes()
    start = code.index(STUB)
    assert code[start : start + len(STUB)] == STUB
    assert code[start + 0x40 :][: len(PAYLOAD)] == PAYLOAD
