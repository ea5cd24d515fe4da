"""What `genrank demo` needs on a machine with torch, triton, numpy and safetensors but without internet.

    python benchmarks/gpu_wheels.py          build/gpu_wheels/site.tar.xz, below 56 MiB, in some two minutes

It downloads wheels for Python 3.12 on x86-64 Linux, unpacks them, leaves out what the demo never imports, and packs the
rest: as they come, the wheels are 101 MiB, pyarrow and duckdb alone 62. The step `demo` of benchmarks/gpu.py unpacks
the archive into a temporary folder and puts that on Python's path: all that installing these wheels would do.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "gpu_wheels" / "site.tar.xz"
LIMIT = 56 * 2**20  # bytes: with the repository, 64 MiB travel to the machine
PYTHON, PLATFORMS = "3.12", ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
# Later pyarrows are a third larger.
PREPARE = (
    "pyarrow==17.0.0",
    "pyarrow-hotfix",
    "duckdb",
    "ibis-framework",
    "sqlglot",
    "pandas",
    "toolz",
    "parsy",
    "atpublic",
)
PREPARE += ("python-dateutil", "six", "tzdata", "packaging", "typing-extensions")
REPORT = ("rich", "markdown-it-py", "mdurl", "pygments", "jinja2", "markupsafe", "matplotlib", "contourpy", "cycler")
REPORT += ("fonttools", "kiwisolver", "pillow", "pyparsing")
# Never imported by the demo, by the name of a folder or the beginning of a file's.
FOLDERS = {"tests", "include", "sample_data"}
FILES = ("libarrow_flight", "_flight", "libarrow_python_flight", "libarrow_substrait", "_substrait")


def main() -> int:
    """0, or 1 where the archive is larger than what can travel."""
    with tempfile.TemporaryDirectory() as folder:
        wheels, site = Path(folder) / "wheels", Path(folder) / "site"
        download(wheels)
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
            print(f"{wheel.stat().st_size / 2**20:6.1f} MiB  {wheel.name}")
        leave_out(site)
        OUT.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(OUT, "w:xz", preset=6) as archive:
            archive.add(site, arcname="site")
    size = OUT.stat().st_size
    print(f"{size / 2**20:6.1f} MiB  {OUT}")
    if size > LIMIT:
        print(f"larger than {LIMIT / 2**20:.0f} MiB: pin smaller versions in {Path(__file__).name}", file=sys.stderr)
    return int(size > LIMIT)


def download(folder: Path) -> None:
    """The wheels, without what they depend on: the lists above are whole."""
    platforms = [part for platform in PLATFORMS for part in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", PYTHON, "--implementation", "cp", *platforms, "--dest", str(folder)]
    subprocess.run([*command, *PREPARE, *REPORT], check=True)


def leave_out(site: Path) -> None:
    """Tests, headers, and Arrow's network and query-plan libraries."""
    for path in sorted(site.rglob("*"), reverse=True):
        if path.is_dir() and path.name in FOLDERS:
            shutil.rmtree(path)
        elif path.is_file() and path.name.startswith(FILES):
            path.unlink()


if __name__ == "__main__":
    sys.exit(main())
