"""The search of step `attention`: which tile makes each Triton kernel fastest on this card?

Tiles are compiled and checked against float64 side by side in processes of their own, then timed here alone, each by
turns with the reasoned tile, over batches of the paper's length and of a long one. What is fastest so far is written
to OUT/tiles/<card>.json after every improvement: the file that genrank/nn/tiles/ takes.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch

from genrank.nn import triton_tiles
from genrank.nn.attention import ReferenceAttention, Scoring, alibi
from genrank.nn.triton_attention import TritonAttention
from gpu_steps import check
from gpu_steps.machine import Clock, Sizes, card_name, describe
from gpu_steps.report import Report
from gpu_steps.workers import spread
