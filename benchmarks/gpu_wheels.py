"""What `genrank demo` needs on a machine with torch, triton, numpy and safetensors but without internet.

    python benchmarks/gpu_wheels.py                              build/gpu_wheels/site.tar.xz, in some two minutes
    python benchmarks/gpu_wheels.py --without pyarrow,pandas     for a machine that has these

It downloads wheels for Python 3.12 on x86-64 Linux, unpacks them, leaves out what the demo never imports, and packs the
rest. As they come the wheels have 78 MiB, of which pyarrow and duckdb have 62; packed they have 44. The step `demo`
of benchmarks/gpu.py unpacks the archive into a temporary folder, where Python looks last. Without matplotlib, which
isn't among them, the demo draws no report.html.
"""

import argparse
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
# All that is imported: what they depend on is among them. Later pyarrows are a third larger.
PACKAGES = ("pyarrow==17.0.0", "pyarrow-hotfix", "duckdb", "ibis-framework", "sqlglot", "pandas", "toolz", "parsy")
PACKAGES += ("atpublic", "python-dateutil", "six", "tzdata", "packaging", "typing-extensions")
PACKAGES += ("rich", "markdown-it-py", "mdurl", "pygments")
PACKAGES += ("typer==0.29.2", "annotated-doc", "shellingham", "pydantic==2.14.4", "pydantic-core==2.50.5")
PACKAGES += ("annotated-types", "typing-inspection")
# Never imported by the demo, by the name of a folder or the beginning of a file's.
FOLDERS = {"tests", "include", "sample_data"}
FILES = ("libarrow_flight", "_flight", "libarrow_python_flight")


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 where the archive is larger than what can travel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without", default="", help="packages, by commas")
    without = set(filter(None, parser.parse_args(arguments).without.split(",")))
    names = {package.split("==")[0] for package in PACKAGES}
    if without - names:
        parser.error(f"--without: {', '.join(sorted(without - names))} is none of {', '.join(sorted(names))}")
    packages = [package for package in PACKAGES if package.split("==")[0] not in without]
    with tempfile.TemporaryDirectory() as folder:
        wheels, site = Path(folder) / "wheels", Path(folder) / "site"
        download(packages, wheels)
        found = sorted(wheels.glob("*.whl"))
        for wheel in found:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
            print(f"{wheel.stat().st_size / 2**20:6.1f} MiB  {wheel.name}")
        print(f"{sum(wheel.stat().st_size for wheel in found) / 2**20:6.1f} MiB  of wheels")
        leave_out(site)
        OUT.parent.mkdir(parents=True, exist_ok=True)
        part = OUT.with_suffix(".part")
        with tarfile.open(part, "w:xz", preset=6) as archive:
            archive.add(site, arcname="site")
        part.replace(OUT)
    size = OUT.stat().st_size
    print(f"{size / 2**20:6.1f} MiB  {OUT}")
    if size > LIMIT:
        print(f"larger than {LIMIT / 2**20:.0f} MiB: pin smaller versions in {Path(__file__).name}", file=sys.stderr)
    return int(size > LIMIT)


def download(packages: list[str], folder: Path) -> None:
    """The wheels, without what they depend on."""
    platforms = [part for platform in PLATFORMS for part in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", PYTHON, "--implementation", "cp", *platforms, "--dest", str(folder)]
    subprocess.run([*command, *packages], check=True)


def leave_out(site: Path) -> None:
    """Tests, headers, and Arrow's network and query-plan libraries."""
    for path in sorted(site.rglob("*"), reverse=True):
        if path.is_dir() and path.name in FOLDERS:
            shutil.rmtree(path)
        elif path.is_file() and path.name.startswith(FILES):
            path.unlink()


if __name__ == "__main__":
    sys.exit(main())
