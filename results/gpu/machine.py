"""What a figure must name, as JSON: the card, its driver, versions, commit, date."""
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from runtime import record


def driver():
    try:
        return subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
                              capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


json.dump({"device": record.device_name("cuda" if torch.cuda.is_available() else "cpu"), "driver": driver(),
           "python": sys.version.split()[0], "torch": torch.__version__, "cuda": torch.version.cuda,
           "cudnn": torch.backends.cudnn.version(), "commit": record.commit(),
           "date": time.strftime("%Y-%m-%d %H:%M:%S %z")}, sys.stdout, indent=1)
print()
