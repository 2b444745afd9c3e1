# SPDX-License-Identifier: Apache-2.0
"""What stored figures say of the machine."""

import platform
import re
from pathlib import Path


def processor() -> str:
    """Its model where the system says it, else the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.M) if cpuinfo.exists() else []
    return names[0] if names else platform.processor() or platform.machine()
