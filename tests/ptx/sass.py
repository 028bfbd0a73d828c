"""The machine code of a cubin, by the wheel `nvidia-cuda-nvdisasm`."""

import collections
import functools
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REMEDY = "no nvdisasm: pip install nvidia-cuda-nvdisasm, or make proof"
# an address, a predicate that may be there, and the name with its modifiers
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*(?:\.\w+)*)", re.M)


@functools.lru_cache(1)
def disassembler() -> str | None:
    """The program that the wheel brings, or that of an installed CUDA; None where there is neither."""
    for place in filter(None, sys.path):
        for path in Path(place).glob("nvidia/cu*/bin/nvdisasm"):
            return str(path)
    return shutil.which("nvdisasm")


def instructions(cubin: bytes) -> collections.Counter[str]:
    """How often each instruction stands in the code, by its name with all modifiers: HMMA.16816.F32.BF16."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([disassembler(), "-c", file.name], check=True, capture_output=True, text=True)
    return collections.Counter(_INSTRUCTION.findall(text.stdout))
