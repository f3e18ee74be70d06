"""The job on a machine that pretends to have GPUs: python -m tests.standins.pretended_gpus COUNT [ARGUMENT ...].

No test has several GPUs. What CUDA finds is pretended; the choice of the engine, Ray and the workers are real, and each
worker falls back to the CPU. The last line says whether Ray was imported.
"""

import os
import sys

import torch

from job.cli import main
from job.detect import gpu

if __name__ == "__main__":
    count = int(sys.argv.pop(1))
    names = tuple(f"Pretended {index}" for index in range(count))
    machine = gpu.Machine(torch_cuda="13.0", architectures=("sm_90",), names=names, capabilities=((9, 0),) * count)
    vars(gpu).update(inspect=lambda: machine, choose=lambda settings: (torch.device("cpu"), None))
    code = main()
    print("ray" in sys.modules, flush=True)
    os._exit(code)
