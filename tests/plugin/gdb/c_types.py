"""Debug information for GDB: C with structures laid out as a kernel has them, compiled."""

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from nestscope.decoders.kernel.types import Member, Struct

COMPILER = "powerpc64le-linux-gnu-gcc"
# What no reader asks the types for, but a printer shows; the same in all kernels.
EXTRA = """
typedef struct { unsigned long pte; } pte_t;
pte_t a_pte;
struct rmap_nested { struct { struct rmap_nested *next; } list; unsigned long rmap; };
struct rmap_nested a_node;
"""
_INTS = {1: "char", 2: "short", 4: "int", 8: "long"}


def compiled(structs: Mapping[str, Struct], folder: Path) -> Path:
    """Compile the structures with debug information; return the object file."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"there is no {COMPILER}")
    source, made = folder / "types.c", folder / "types.o"
    variables = "\n".join(f"struct {name} *a_{name};" for name in structs)
    source.write_text("\n".join([*(_struct(s) for s in structs.values()), variables, EXTRA]))
    subprocess.run([COMPILER, "-g", "-c", str(source), "-o", str(made)], check=True, timeout=60)
    return made


def _struct(struct: Struct) -> str:
    body = _body(struct.members.values(), struct.size)
    return f"struct {struct.name} {{ {body} }};"


def _body(members: Iterable[Member], size: int) -> str:
    """Return a union with each member behind as many bytes as the kernel has before it."""
    fields = [f"char whole[{size}];"]
    for member in members:
        if member.bits is None and member.name.isidentifier():
            pad = f"char before[{member.offset}]; " if member.offset else ""
            dims = "".join(f"[{dim}]" for dim in member.dims)
            kind = _kind(member)
            fields.append(
                f"struct __attribute__((packed)) {{ {pad}{kind} {member.name}{dims}; }};"
                if pad
                else f"{kind} {member.name}{dims};"
            )
    # Each member's bytes are one unnamed structure: its padding must not have a name twice.
    text = " ".join(fields)
    for number in range(text.count("char before[")):
        text = text.replace("char before[", f"char before_{size}_{number}[", 1)
    return f"union {{ {text} }};"


def _kind(member: Member) -> str:
    if member.layout is not None:
        inner = member.layout()
        return f"struct {{ {_body(inner.members.values(), inner.size)} }}"
    if member.kind == "struct":
        return f"struct {{ char whole[{member.element_size or member.size}]; }}"
    if member.kind == "pointer":
        return "void *"
    sign = "signed" if member.signed else "unsigned"
    return f"{sign} {_INTS[member.element_size or member.size]}"
