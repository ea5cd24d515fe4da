"""How fast the feed world makes exposures on one core, files included.

python benchmarks/simulate.py [--users N] [--days D] [--repeat R]
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before NumPy is imported

import pyarrow as pa  # noqa: E402

from genrank.simulation import WorldConfig, simulate  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=WorldConfig.num_users)
    parser.add_argument("--days", type=int, default=WorldConfig.num_days)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pa.set_cpu_count(1)
    for run in range(arguments.repeat):
        config = WorldConfig(num_users=arguments.users, num_days=arguments.days, seed=run)
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            summary = simulate(config, Path(folder) / "log")
            cpu = time.process_time() - started
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        print(
            f"{summary.num_exposures:,} exposures in {summary.seconds:.2f} s: "
            f"{summary.exposures_per_second:,.0f} per second, "
            f"{summary.num_exposures / cpu:,.0f} per second of CPU time, {size / summary.num_exposures:.0f} bytes each"
        )


if __name__ == "__main__":
    main()
