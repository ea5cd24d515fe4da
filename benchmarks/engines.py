"""Whether Spark prepares a simulated log into the same files as DuckDB, byte for byte, and how long each takes.

python benchmarks/engines.py [--exposures N] [--days D] [--master local[2]] [--memory-limit 8GB] [--json]

The log is one of the feed world: requests of six to ten exposures, actions, items' and users' features, embeddings and
window statistics. Each engine prepares it in a process of its own; start-up, hashing and flushing to disk count. Both
folders are read in full and compared; of the manifests, versions differ and are left out. The exit status is 1 where
anything else differs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from genrank.data.integrity import STAMP
from genrank.simulation import WorldConfig, simulate

PER_USER_AND_DAY = 16  # exposures of the feed world, about
NOT_COMPARED = ("versions", "manifest_hash")


def prepared(feed: Path, out: Path, flags: list[str]) -> float:
    """Seconds to prepare the log into `out`."""
    command = [sys.executable, "-m", "genrank", "prepare", str(feed / "exposures")]
    started = time.perf_counter()
    subprocess.run([*command, "--schema", str(feed / "schema.toml"), "--out", str(out), *flags], check=True)
    return time.perf_counter() - started


def differences(one: Path, other: Path) -> list[str]:
    """The files, and the manifest's parts, that are not the same in two prepared folders."""
    named = [{path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} for folder in (one, other)]
    common = sorted(named[0] & named[1] - {Path("manifest.json"), Path(STAMP)})
    found = [str(name) for name in sorted(named[0] ^ named[1])]
    found += [str(name) for name in common if (one / name).read_bytes() != (other / name).read_bytes()]
    manifests: list[dict[str, Any]] = [json.loads((folder / "manifest.json").read_text()) for folder in (one, other)]
    parts = sorted((manifests[0].keys() | manifests[1].keys()) - {*NOT_COMPARED})
    return found + [f"manifest: {part}" for part in parts if manifests[0].get(part) != manifests[1].get(part)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exposures", type=int, default=1_000_000, help="about so many")
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--memory-limit", default="8GB", help="of each engine")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    users = max(10, arguments.exposures // (PER_USER_AND_DAY * arguments.days))
    limit = ["--memory-limit", arguments.memory_limit]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = simulate(WorldConfig(num_users=users, num_days=arguments.days), folder / "feed")
        duckdb = prepared(folder / "feed", folder / "duckdb", limit)
        spark = prepared(folder / "feed", folder / "spark", [*limit, "--engine", "spark", "--master", arguments.master])
        different = differences(folder / "duckdb", folder / "spark")
        files = sum(path.is_file() for path in (folder / "duckdb").rglob("*"))
    measured = {
        "exposures": made.num_exposures,
        "users": users,
        "files": files,
        "duckdb_seconds": round(duckdb, 1),
        "spark_seconds": round(spark, 1),
        "different": different,
    }
    if arguments.json:
        print(json.dumps(measured))
    else:
        for name, value in measured.items():
            print(f"{name.replace('_', ' '):20s} {value if isinstance(value, list) else f'{value:,}'}")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
