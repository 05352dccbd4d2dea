"""What a process says of its release."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_code_runs_from_its_folder_without_an_installation():
    """A folder on the path is enough: metrics and `--version` do without the package's metadata."""
    program = (
        "import importlib.metadata as m\n"
        "real = m.distribution\n"
        "def gone(name):\n"
        "    if name == 'qwenserve': raise m.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "m.distribution = gone\n"
        "from qwenserve.runtime.metrics import RouterMetrics\n"
        "print(RouterMetrics().render()[0].decode())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert 'qwenserve_build_info{version="source"} 1.0' in done.stdout
