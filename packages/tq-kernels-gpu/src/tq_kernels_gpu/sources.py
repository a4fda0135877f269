"""The kernel sources: one self-contained text a module, its headers pasted in.

Pasted, because a compiler's cache (cupy's too) is keyed by the text it is given and does not see what headers hold.
"""

import re
from functools import cache
from importlib.resources import files
from typing import Final

# Every float32 step must round as numpy's: no contraction but where a kernel writes fmaf. C++17 for `if constexpr`.
OPTIONS: Final = ("--std=c++17", "--fmad=false")

_INCLUDE: Final = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)
_KERNEL: Final = re.compile(r'extern "C" __global__ void(?: __launch_bounds__\([^)]*\))? (\w+)\(')


def modules() -> tuple[str, ...]:
    """Names of the modules, each a `.cu` file in the folder `kernels`, ascending."""
    folder = files("tq_kernels_gpu").joinpath("kernels")
    return tuple(sorted(entry.name[:-3] for entry in folder.iterdir() if entry.name.endswith(".cu")))


@cache
def source(module: str) -> str:
    """The whole text of a module; every header appears once, before its first use."""
    return _expand(f"{module}.cu", set())


@cache
def kernels(module: str) -> tuple[str, ...]:
    """Names of the kernels that a module defines, in the order of its text."""
    return tuple(_KERNEL.findall(source(module)))


def _expand(name: str, seen: set[str]) -> str:
    text = files("tq_kernels_gpu").joinpath("kernels", name).read_text("ascii")
    lines = [f'#line 1 "{name}"']
    for number, line in enumerate(text.splitlines(), 1):
        match = _INCLUDE.match(line)
        if match is None:
            lines.append(line)
        elif match[1] not in seen:
            seen.add(match[1])
            lines += [_expand(match[1], seen), f'#line {number + 1} "{name}"']
        else:
            lines.append("")
    return "\n".join(lines) + "\n"
