"""The Triton kernels compiled for A100 and H100 without either: registers, spills, shared memory, tensor cores.

In a process of its own, for tests of this one may have Triton interpret.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from genrank.nn.triton_tiles import Tile, fallback, shared_bytes

triton = pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_compile.py"
SHARED = {80: 163 * 1024, 90: 227 * 1024}  # bytes that a program can have

# Bytes that a thread may spill, beside the 255 registers that it has: in the paper's setting, and in any; the most are
# of learned bias under softmax. Numbers of 32 bits are multiplied outside of tensor cores, in registers.
PAPERS = {"forward": 8, "query_gradient": 8, "key_gradient": 48, "table_gradient": 8}
HALF = {"forward": 136, "query_gradient": 128, "key_gradient": 128, "table_gradient": 96}
SINGLE = dict.fromkeys(HALF, 1000)
Row = dict[str, Any]


def compile_kernels(folder: Path, *arguments: str) -> list[Row]:
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(SCRIPT), "--json", *arguments]
    environment = inherited | {"TRITON_CACHE_DIR": str(folder), "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[Row] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def h100(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return compile_kernels(tmp_path_factory.mktemp("h100"), "--arch", "90")


@pytest.fixture(scope="module")
def a100(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return compile_kernels(tmp_path_factory.mktemp("a100"), "--arch", "80", "--weighting", "softmax")


@pytest.fixture(scope="module", params=["h100", "a100"])
def rows(request: pytest.FixtureRequest) -> list[Row]:
    found: list[Row] = request.getfixturevalue(request.param)
    return found


def check(rows: list[Row], spilled: dict[str, int]) -> None:
    """Bounds of every kernel; all that break one are told of."""
    wrong = []
    for row in rows:
        size = "single" if row["numbers"] == "float32" else "half"
        tile = Tile(row["queries"], row["keys"], row["num_warps"], row["num_stages"])
        reckoned = shared_bytes(row["kernel"], tile, size, row["channels"], learned=row["bias"] == "learned")
        bounds = {"registers": 255, "spilled": spilled[row["kernel"]], "shared": min(SHARED[row["arch"]], reckoned)}
        wrong += [f"{name} {row[name]} > {bound}: {row}" for name, bound in bounds.items() if row[name] > bound]
        if size == "half" and row["tensor_cores"] == 0:
            wrong.append(f"no tensor cores: {row}")
    assert wrong == []


@pytest.mark.slow
def test_the_papers_setting_is_compiled_with_every_kernel(h100: list[Row], a100: list[Row]) -> None:
    softmax, hstu = ["forward", "key_gradient", "query_gradient"], 4
    assert sorted(row["kernel"] for row in a100) == sorted(2 * softmax)
    assert len(h100) == 2 * (len(softmax) + hstu)


@pytest.mark.slow
def test_registers_spills_and_shared_memory_are_within_bounds(rows: list[Row]) -> None:
    check(rows, PAPERS)


@pytest.mark.slow
def test_the_tiles_are_the_reasoned_ones(rows: list[Row]) -> None:
    for row in rows:
        tiles = fallback(torch.bfloat16, 96, SHARED[row["arch"]], learned=row["bias"] == "learned")
        tile = getattr(tiles, row["kernel"])
        assert (tile.queries, tile.keys, tile.num_warps) == (row["queries"], row["keys"], row["num_warps"])


@pytest.mark.slow
def test_keys_and_values_are_copied_16_bytes_at_a_time_while_others_are_multiplied(rows: list[Row]) -> None:
    for row in rows:
        assert row["wide_copies"] > 0, row
        assert row["wide_copies"] > row["narrow_copies"], row  # of 4 bytes: places, z and delta


def test_batches_of_any_size_are_served_by_one_compilation(tmp_path: Path) -> None:
    for found in compile_kernels(tmp_path, "--specializations", "--arch", "90", "--bias", "learned"):
        counts = {name: count for name, count in found.items() if name.endswith(("forward", "gradient"))}
        assert len(counts) == 4
        assert set(counts.values()) == {1}, found


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["80", "90"])
@pytest.mark.parametrize("numbers", ["bfloat16", "float32"])
@pytest.mark.parametrize("channels", ["32", "64", "96", "128"])
def test_every_variant_compiles_within_bounds(tmp_path: Path, arch: str, numbers: str, channels: str) -> None:
    found = compile_kernels(tmp_path, "--every", "--arch", arch, "--numbers", numbers, "--channels", channels)
    assert len(found) == 2 * 2 * (3 * 3 + 4)
    check(found, HALF if numbers == "bfloat16" else SINGLE)
