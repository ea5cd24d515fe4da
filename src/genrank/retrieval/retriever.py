"""Retriever: one vector for what a user wants now, searched by inner product among all items' vectors.

GRank, arXiv 2510.15299, in three parts over shared item embeddings:

    generator    history → causal blocks; after it a query token U = [user; means of recent events by behaviour]
    auxiliary    in training only: candidates pass through the same blocks; each sees the history and itself
    ranker       one layer of cross-attention from the generator's best candidates to a long history, then an MLP

History and U never see candidates, so a query is the same without the auxiliary, bit for bit. This is the attention
rule of the rankers (nn/attention.py): U and the auxiliary's candidates are queries over the history's keys and values,
in O(L² + B·L) instead of O((L + B)²). The paper's ranker computes a score; ours computes a term that is added to the
generator's score and initially 0, so that training begins with the generator's order.

Shapes: B samples, T history events, C places (targets while training), P chosen places, M candidates of a place,
I items, W width, H heads.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrank.batch import Candidates, PackedBatch
from genrank.nn.attention import Attention, Queries, Scoring, Tokens, alibi
from genrank.nn.backends import AttentionMaker
from genrank.nn.blocks import Block, KeysValues, TransformerBlock
from genrank.nn.dropout import Dropout
from genrank.nn.embeddings import ActionEmbedding, FeatureEmbedding
from genrank.nn.encoding import GenRankEncoding
from genrank.nn.kv_cache import KVCache, Merge
from genrank.nn.organization import action_context, per_token
from genrank.nn.pooling import RangeSums
from genrank.retrieval.retriever_config import RetrieverConfig
from genrank.schema import DataSpec, FeatureSpec, Owner

SHARPNESS = 10.0  # initial scale of the ranker's attention: an event like the candidate outweighs e^10 others; ours


class Encoded(NamedTuple):
    """A batch's histories, encoded by the generator."""

    state: KVCache
    event_TW: Tensor  # items with the actions on them
    items_IW: Tensor  # of the batch
    user_BW: Tensor | None


class Retriever(nn.Module):
    """See the module. Trained through retrieval/training_losses.py."""

    def __init__(self, config: RetrieverConfig, spec: DataSpec, *, max_history: int):
        super().__init__()
        self.config, self.spec, width = config, spec, config.width
        self.items = self._features("item")
        self.users = self._features("user") if self._used("user") else None
        self.actions = ActionEmbedding(spec, width) if spec.tasks or spec.feedback else None
        self.behaviours = tuple(task.name for task in spec.tasks if task.kind == "binary")
        self.encoding = GenRankEncoding(
            max_history + 1, width, position=config.position_embedding, request=False, gap=config.gap_embedding
        )
        num_sums = len(config.recent) * (1 + len(self.behaviours))
        self.query_token = nn.Parameter(torch.randn(width) * 0.02)
        self.personal = nn.Linear(width * (num_sums + (self.users is not None)), width, bias=False)
        self.input_norm, self.input_dropout = nn.LayerNorm(width), Dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList(self._block() for _ in range(config.num_blocks * (config.generator != "pooled")))
        self.tower = _mlp(width, width, config.dropout) if config.generator == "pooled" else None
        self.query_norm = nn.LayerNorm(width)
        self.auxiliary = _mlp(width, width, config.dropout) if config.auxiliary else None
        self.ranker = CrossAttentionRanker(config) if config.ranker else None
        self.scoring = Scoring(alibi(config.num_heads, "position" if config.alibi else "none"))
        self.attention = AttentionMaker(config.attention, fusible=True, channels=config.width // config.num_heads)
        self.ranker_attention = AttentionMaker(config.attention, fusible=True, channels=config.width)  # of one head

    def _used(self, owner: Owner) -> tuple[FeatureSpec, ...]:
        left_out = {*self.config.without, *(() if self.config.user_id else ("user_id",))}
        return tuple(feature for feature in self.spec.of(owner) if feature.name not in left_out)

    def _features(self, owner: Owner) -> FeatureEmbedding:
        config = self.config
        return FeatureEmbedding(
            self._used(owner),
            dim=config.embedding_dim,
            width=config.width,
            id_dropout=config.id_dropout,
            feature_dropout=config.feature_dropout,
        )

    def _block(self) -> TransformerBlock:
        config = self.config
        return TransformerBlock(
            config.width,
            config.num_heads,
            feedforward=config.feedforward,
            dropout=config.dropout,
            gate=config.attention_gate,
        )

    @property
    def scale(self) -> float:
        """The factor from an inner product to a logit."""
        return 1 / self.config.temperature if self.config.similarity == "cosine" else 1.0

    def vectors(self, embedded_IW: Tensor) -> Tensor:
        """(…, W) the vectors in the index of embedded items."""
        return F.normalize(embedded_IW, dim=-1) if self.config.similarity == "cosine" else embedded_IW

    def encode(self, batch: PackedBatch) -> Encoded:
        """The batch's encoded histories; its candidates are not used."""
        items_IW = self.items(batch.items)
        user_BW = None if self.users is None else self.users(batch.users)
        history = batch.history
        event_TW = items_IW[history.item]
        if self.actions is not None:
            event_TW = event_TW + self.actions(history.actions)
        encoded_TW = event_TW + self.encoding(history.position, history.as_candidate.request, history.as_candidate.gap)
        context = action_context(encoded_TW, history)
        x_TW = self._input(context.x_XW)
        states = self._through_history(x_TW, context.queries, context.tokens)
        return Encoded(KVCache(context.tokens, states, user_BW, 0, 1), event_TW, items_IW, user_BW)

    def queries(self, encoded: Encoded, batch: PackedBatch) -> Tensor:
        """(C, W) the query vector of every place: of its sample's history up to its prefix."""
        c = batch.candidates
        sums = self._recent(encoded.event_TW, batch)
        if encoded.user_BW is not None:
            sums.append(per_token(encoded.user_BW, c.offsets, len(c.item)))
        token_CW = self.query_token + self.personal(torch.cat(sums, -1))
        if self.tower is not None:
            return self.vectors(self.query_norm(self.tower(token_CW)))
        x_CW = self._input(token_CW + self.encoding(c.prefix, c.request, c.gap))
        x_CW = self._through_blocks(x_CW, encoded.state, _queries(c.offsets, c.prefix, c.time))
        return self.vectors(self.query_norm(x_CW))

    def auxiliary_scores(self, encoded: Encoded, batch: PackedBatch, places_P: Tensor, items_PMW: Tensor) -> Tensor:
        """(P, M) target-aware scores of embedded items at the chosen places, which are in order.

        The output of the blocks for a candidate is a query that depends on it; its inner product with the item is the
        score.
        """
        assert self.auxiliary is not None
        c, num_candidates = batch.candidates, items_PMW.shape[1]
        places = chosen_places(c, places_P, num_candidates)
        encoding_PW = self.encoding(c.prefix[places_P], c.request[places_P], c.gap[places_P])
        x_PMW = self.auxiliary(items_PMW) + encoding_PW.expand(len(places_P), -1)[:, None]
        x_NW = self._through_blocks(self._input(x_PMW.flatten(0, 1)), encoded.state, places)
        aware_PMW = self.vectors(self.query_norm(x_NW)).view(items_PMW.shape)
        return (aware_PMW * self.vectors(items_PMW)).sum(-1) * self.scale

    def rank_scores(
        self, encoded: Encoded, batch: PackedBatch, places_P: Tensor, *, query_PW: Tensor, items_PMW: Tensor
    ) -> Tensor:
        """(P, M) the ranker's logits of embedded items at the chosen places, which are in order."""
        assert self.ranker is not None
        long, window = batch.long, batch.history.offsets
        event_EW = encoded.items_IW[long.item]
        if self.actions is not None:
            event_EW = event_EW + self.actions(long.actions)
        merge = Merge(long.offsets, window, num_old=len(event_EW), num_new=len(encoded.event_TW))
        event_XW = merge(event_EW, encoded.event_TW)
        lengths = merge.offsets.diff()
        begin_X = per_token(merge.offsets[:-1], merge.offsets, len(event_XW))
        position_X = torch.arange(len(event_XW), device=event_XW.device) - begin_X
        context = Tokens(merge.offsets, position_X, torch.zeros_like(position_X))
        c, num_candidates = batch.candidates, items_PMW.shape[1]
        places = chosen_places(c, places_P, num_candidates)
        before_N = per_token(lengths - window.diff(), places.tokens.offsets, len(places.prefix))
        prefix_N = places.prefix + before_N
        behind = Queries(Tokens(places.tokens.offsets, prefix_N, places.next_time), prefix_N, places.next_time)
        with torch.no_grad():  # the ranker's loss doesn't train the generator: its negatives are too hard for that
            generated_PM = torch.einsum("pw,pmw->pm", query_PW, self.vectors(items_PMW)) * self.scale
        attention = self.ranker_attention(behind, context, self.ranker.scoring)
        added_PM: Tensor = self.ranker(items_PMW, query_PW, event_XW, attention)
        return generated_PM + added_PM

    def _recent(self, event_TW: Tensor, batch: PackedBatch) -> list[Tensor]:
        """(C, W) each: the mean of the latest events before every place, of all events and of each task's positives."""
        history, c = batch.history, batch.candidates
        first_C = per_token(history.offsets[:-1], c.offsets, len(c.item))
        end_C = first_C + c.prefix
        answers = [event_TW.new_ones(len(event_TW))]
        answers += [(history.actions[name] == 2).to(event_TW.dtype) for name in self.behaviours]
        means = []
        for answer_T in answers:
            weighted = torch.cat([event_TW * answer_T[:, None], answer_T[:, None]], -1)
            sums = RangeSums(weighted)
            for count in self.config.recent:
                total = sums(torch.maximum(first_C, end_C - count), end_C)
                means.append(total[:, :-1] / total[:, -1:].clamp_min(1))
        return means

    def _input(self, x_NW: Tensor) -> Tensor:
        entered: Tensor = self.input_dropout(self.input_norm(x_NW))
        return entered

    def _through_history(self, x_TW: Tensor, queries: Queries, tokens: Tokens) -> tuple[KeysValues, ...]:
        states: list[KeysValues] = []
        attention = self.attention(queries, tokens, self.scoring) if len(self.blocks) > 1 else None
        for block in self.blocks:
            assert isinstance(block, Block)
            if attention is None or block is self.blocks[-1]:
                states.append(block.keys_values(x_TW))  # the last block's output for the history is not used
            else:
                x_TW, own = block(x_TW, attention, None)
                states.append(own)
        return tuple(states)

    def _through_blocks(self, x_NW: Tensor, state: KVCache, queries: Queries) -> Tensor:
        attention = self.attention(queries, state.context, self.scoring)
        for block, keys_values in zip(self.blocks, state.keys_values, strict=True):
            x_NW, _ = block(x_NW, attention, keys_values)
        return x_NW


class CrossAttentionRanker(nn.Module):
    """The term added to the generator's logit of a candidate: one layer of one head over a long history, then an MLP.

    From the first step a candidate attends to events like itself, by cosine, as in SIM's soft search; the rest is
    learned. With dot products near zero all events share the attention evenly, so that the one decisive event of 200
    gets a 200th of the gradient, and nothing was learned. There is no bias for recent events, which the generator
    covers. The paper specifies neither; both are ours.
    """

    scoring = Scoring(alibi(1, "none"))

    def __init__(self, config: RetrieverConfig):
        super().__init__()
        width = config.width
        self.norm = nn.LayerNorm(width)
        self.key_value = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2 * width))
        self.query = nn.Linear(width, width, bias=False)
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS))
        self.head = nn.Sequential(
            nn.Linear(4 * width, width), nn.GELU(), Dropout(config.dropout), nn.Linear(width, 1, bias=False)
        )
        nn.init.zeros_(self.head[-1].weight)  # type: ignore[arg-type]

    def forward(self, items_PMW: Tensor, query_PW: Tensor, event_XW: Tensor, attention: Attention) -> Tensor:
        """(P, M)."""
        k_X1W, v_X1W = self._keys_values(self.norm(event_XW))
        item_NW = self.norm(items_PMW.flatten(0, 1))
        own_k, own_v = self._keys_values(
            item_NW
        )  # the candidate sees itself too, so that an empty history is no special case
        scale = self.sharpness * item_NW.shape[1] ** 0.5  # attention divides by this root
        q_N1W = (F.normalize(item_NW + self.query(item_NW), dim=-1) * scale)[:, None]
        found_PMW = attention(q_N1W, k_X1W, v_X1W, own_k, own_v)[:, 0].view(items_PMW.shape)
        wanted_PMW = query_PW[:, None].expand(items_PMW.shape)
        sides = torch.cat([found_PMW, items_PMW, found_PMW * items_PMW, wanted_PMW * items_PMW], -1)
        added_PM: Tensor = self.head(sides).squeeze(-1)
        return added_PM

    def _keys_values(self, event_NW: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1, W) each, of events or items that are normalised."""
        k_NW, v_NW = self.key_value(event_NW).chunk(2, -1)
        return F.normalize(event_NW + k_NW, dim=-1)[:, None], v_NW[:, None]


def chosen_places(c: Candidates, places_P: Tensor, count: int) -> Queries:
    """Queries, `count` of them at each of the chosen places."""
    counted = torch.zeros(len(c.prefix) + 1, dtype=torch.int64, device=c.prefix.device)
    counted.index_fill_(0, places_P + 1, count)
    return _queries(
        counted.cumsum(0)[c.offsets],
        torch.repeat_interleave(c.prefix[places_P], count),
        torch.repeat_interleave(c.time[places_P], count),
    )


def _queries(offsets: Tensor, prefix_N: Tensor, time_N: Tensor) -> Queries:
    return Queries(Tokens(offsets, prefix_N, time_N), prefix_N, time_N)


def _mlp(width: int, out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), Dropout(dropout), nn.Linear(2 * width, out))
