"""Runs several processes of `f2jax` on this machine as one job, like the hosts of a pod.

python -m f2jax.parallel.simulate --processes 2 --devices 2 -- train --config configs/nano.py --workdir DIR
"""

import argparse
import os
import signal
import socket
import subprocess
import sys


def launch(command: list[str], processes: int, devices: int = 1, **options) -> list[subprocess.Popen]:
    """Starts `python command…` as `processes` processes of one job, each with `devices` CPU devices.

    Args:
        options: passed to `subprocess.Popen`.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    job = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "JAX_COORDINATOR_ADDRESS": address}
    job |= {"JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo", "JAX_NUM_PROCESSES": str(processes)}
    return [
        subprocess.Popen([sys.executable, *command], env=os.environ | job | {"JAX_PROCESS_ID": str(i)}, **options)
        for i in range(processes)
    ]


def main(argv: list[str] | None = None) -> int:
    """Runs a command in all processes and returns their largest exit code. SIGTERM is passed to the first process."""
    parser = argparse.ArgumentParser(prog="python -m f2jax.parallel.simulate", description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, default=2, help="processes to start (default: %(default)s)")
    parser.add_argument("--devices", type=int, default=1, help="CPU devices of each process (default: %(default)s)")
    parser.add_argument("command", nargs="+", help="-- and a command with its options: -- train --config nano")
    args = parser.parse_args(argv)
    running = launch(["-m", "f2jax", *args.command], args.processes, args.devices)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to the processes too
    signal.signal(signal.SIGTERM, lambda *_: running[0].terminate())
    codes = [process.wait() for process in running]
    return max(128 - code if code < 0 else code for code in codes)


if __name__ == "__main__":
    sys.exit(main())
