"""Which tiles the Triton kernels work on, and the files that say what was measured on a card."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from genrank.errors import ConfigError
from genrank.nn import triton_tiles
from genrank.nn.triton_tiles import (
    CHANNEL_CLASSES,
    FOLDER,
    INTERPRETED,
    KERNELS,
    SINGLE,
    CardTiles,
    MeasuredTile,
    Tile,
    candidates,
    card_path,
    fallback,
    illegal,
    measured_on,
    number_size,
    read,
    tiles_for,
    using,
    write,
)

ROOMY, TIGHT = (fallback(torch.bfloat16, 96, room) for room in (227 * 1024, 163 * 1024))
CPU, CARD = torch.device("cpu"), "NVIDIA H100 80GB HBM3"
SHARED = {"sm_80": 163 * 1024, "sm_86": 99 * 1024, "sm_90": 227 * 1024}
MEASURED = MeasuredTile(
    kernel="forward", size="half", channels=96, tile=Tile(64, 128, 4, 2), milliseconds=0.5, fallback_milliseconds=0.75
)
FOUND = CardTiles(
    card=CARD,
    shared_memory=SHARED["sm_90"],
    driver="580.65.06",
    torch_version="2.13.0",
    triton_version="3.7.1",
    date="2026-12-01",
    setting="8 heads of 96 channels, 1,024 tokens",
    measured=(MEASURED,),
)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("channels", [8, 40, *CHANNEL_CLASSES])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("card", SHARED)
def test_candidates_are_few_legal_and_begin_with_the_fallback(kernel, dtype, channels, learned, card) -> None:
    shared = SHARED[card]
    found = candidates(kernel, dtype, channels, shared, learned=learned)
    assert found[0] == getattr(fallback(dtype, channels, shared, learned=learned), kernel)
    assert 4 <= len(found) <= 16
    assert len(set(found)) == len(found)
    assert not any(illegal(kernel, tile, number_size(dtype), channels, shared, learned=learned) for tile in found)


def test_tiles_in_use_win_while_they_last_also_in_another_thread() -> None:
    assert tiles_for(CPU, torch.float32, 64) == INTERPRETED
    with using(SINGLE), ThreadPoolExecutor(1) as pool:  # a backward pass runs in a thread of its own
        assert pool.submit(tiles_for, CPU, torch.bfloat16, 64).result() == SINGLE
    assert tiles_for(CPU, torch.float32, 64) == INTERPRETED


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = card_path(CARD, tmp_path)
    assert path.name == "nvidia-h100-80gb-hbm3.json"
    write(path, FOUND)
    assert read(path) == FOUND


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda values: values["measured"][0]["tile"].update(queries=48), "power of two from 16 to 256, not 48"),
        (lambda values: values["measured"][0]["tile"].update(num_stages=9), "num_stages must be 1 to 6, not 9"),
        (lambda values: values["measured"][0].update(kernel="backward"), "'backward' is not a choice"),
        (lambda values: values["measured"][0].update(channels=80), "channels must be one of 32, 64, 96, 128, not 80"),
        (lambda values: values["measured"][0].update(milliseconds=0), "milliseconds must be above 0"),
        (lambda values: values.update(measured=2 * values["measured"]), "two tiles for forward half 96"),
        (lambda values: values.update(shared_memory=50_000), "of which the card has 50000"),
        (lambda values: values.update(clock=1), "unknown key 'clock'"),
        (lambda values: values.pop("driver"), "driver"),
    ],
)
def test_a_file_that_is_wrong_is_refused_in_one_line_with_file_and_remedy(tmp_path: Path, change, said) -> None:
    path = card_path(CARD, tmp_path)
    write(path, FOUND)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError) as refused:
        read(path)
    message = str(refused.value)
    assert said in message
    assert message.startswith(str(path))
    assert message.endswith("delete it, and search again with benchmarks/gpu_steps/")
    assert "\n" not in message


@pytest.mark.parametrize("damaged", ["", "[]", "{", '{"card": 1}', "\udcff"])
def test_a_damaged_file_stops_no_training_but_is_said_once(tmp_path: Path, damaged, caplog) -> None:
    card_path(CARD, tmp_path).write_text(damaged, errors="surrogateescape")
    with caplog.at_level(logging.WARNING):
        assert [measured_on(CARD, tmp_path) for _ in range(2)] == [None, None]
    assert [record.getMessage().count("not measured") for record in caplog.records] == [1]


def test_measured_tiles_replace_the_fallback_of_their_kernel_numbers_and_channels_only() -> None:
    over = FOUND.over(ROOMY, torch.bfloat16, 96)
    assert over == replace(ROOMY, forward=Tile(64, 128, 4, 2))
    assert FOUND.over(ROOMY, torch.float16, 80) == over  # 80 channels are padded to 96
    assert FOUND.over(ROOMY, torch.bfloat16, 64) == ROOMY
    assert FOUND.over(SINGLE, torch.float32, 96) == SINGLE
    assert FOUND.over(ROOMY, torch.bfloat16, 96, learned=True) == ROOMY


def test_a_card_takes_its_own_file_and_others_the_fallback(tmp_path: Path, monkeypatch) -> None:
    write(card_path(CARD, tmp_path), FOUND)
    cards = {0: (CARD, SHARED["sm_90"]), 1: ("NVIDIA A100-SXM4-80GB", SHARED["sm_80"])}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: cards[device.index][0])
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda device: SimpleNamespace(shared_memory_per_block_optin=cards[device.index][1]),
    )
    monkeypatch.setattr(triton_tiles, "measured_on", lambda card: measured_on(card, tmp_path))
    triton_tiles._on_card.cache_clear()
    chosen = [tiles_for(torch.device("cuda", index), torch.bfloat16, 96) for index in cards]
    triton_tiles._on_card.cache_clear()
    assert chosen == [replace(ROOMY, forward=Tile(64, 128, 4, 2)), TIGHT]


def test_every_committed_file_is_of_its_card_and_legal() -> None:
    for path in FOLDER.glob("*.json"):
        assert card_path(read(path).card) == path
