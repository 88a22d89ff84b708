"""Completion in the shells: the protocol that their scripts speak with the program."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).with_name("nestscope")


def complete(*words: str) -> list[str]:
    """Return what bash is offered for the last word."""
    environment = os.environ | {
        "_NESTSCOPE_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["nestscope", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [PROGRAM], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["st"], ["state"]),
        (["check", "sample:6.12"], ["sample:6.12-64k", "sample:6.12-4k"]),
        (["diff", "--kernel", "6.1-"], ["6.1-64k"]),
        (["diff", "--machine", "powernv"], ["powernv9", "powernv10"]),
        (["decode", "rm"], ["rmap"]),
        (["state", "--vml"], ["--vmlinux"]),
        (["state", "/tm"], []),
    ],
)
def test_verbs_options_samples_kernels_and_machines_are_offered(
    words: list[str], offered: list[str]
) -> None:
    assert complete(*words) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str) -> None:
    done = subprocess.run(
        [PROGRAM],
        env=os.environ | {"_NESTSCOPE_COMPLETE": f"source_{shell}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "_NESTSCOPE_COMPLETE=complete_" in done.stdout
