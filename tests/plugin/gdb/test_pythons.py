"""The inner layer in older and newer Pythons, as far as they are on this machine.

A stand-in takes GDB's place, so only importing, and talking to a real worker, is shown.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nestscope.plugin.gdb import inside

VERSIONS = ["3.6", "3.7", "3.8", "3.9", "3.10", "3.12", "3.13"]
FOLDER = Path(inside.__file__).parent

SCRIPT = """
import importlib.util, os, sys, types

class Anything(object):
    def __init__(self, *a, **k): pass
    def __getattr__(self, name): return Anything()
    def __call__(self, *a, **k): return Anything()

gdb = types.ModuleType("gdb")
for name in ("Command", "Function", "Parameter", "Breakpoint"):
    setattr(gdb, name, type(name, (object,), {}))
for name in ("error", "GdbError", "MemoryError"):
    setattr(gdb, name, type(name, (Exception,), {}))
for code in ("INT", "CHAR", "BOOL", "STRUCT", "UNION", "ARRAY", "PTR", "ENUM", "FLT"):
    setattr(gdb, "TYPE_CODE_" + code, code)
gdb.events = Anything()
gdb.printing = types.ModuleType("gdb.printing")
gdb.printing.PrettyPrinter = object
sys.modules.update({"gdb": gdb, "gdb.printing": gdb.printing})

folder, python = sys.argv[1:]
spec = importlib.util.spec_from_file_location(
    "nestscope_in_gdb", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder])
package = importlib.util.module_from_spec(spec)
sys.modules["nestscope_in_gdb"] = package
spec.loader.exec_module(package)
import nestscope_in_gdb.start
from nestscope_in_gdb.process import Worker, WorkerError

worker = Worker(python, None, print)
decode = {"verb": "decode", "want": "text", "width": 80, "color": False}
answer = worker.request(dict(decode, arguments={"word": "pte", "value": 0xc000000002d50387}))
assert "0x2d50" in answer["text"], answer
pid = worker.pid
worker.end()
assert not os.path.exists("/proc/%d" % pid)
try:
    Worker("/nonexistent", None, print).request(decode)
except WorkerError as error:
    print(sys.version_info[:2], error)
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_the_inner_layer_runs_in(version: str) -> None:
    program = shutil.which(f"python{version}")
    known = program and subprocess.run([program, "-V"], capture_output=True, check=False)
    if not program or not known or known.returncode:
        pytest.skip(f"there is no python{version}")
    done = subprocess.run(
        [program, "-c", SCRIPT, str(FOLDER), sys.executable],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "is not there any more" in done.stdout
