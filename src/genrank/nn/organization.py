"""Token organizations: how past exposures become context tokens.

    action         e_i = item + action, one token per exposure (GenRank, arXiv 2505.04180)
    interleaved    Φ_0, a_0, Φ_1, a_1, …: a token for the item, one for the action (HSTU, arXiv 2402.17152)

An item token sees what its request saw; an action token is causal. Under HSTU's relative bias an item token as a query
has the position that it had as a candidate. So if history contains the exposure to be predicted, its item token is the
candidate, and no copy is needed. GenRank's absolute positions don't allow that: candidates of a request share one
position, and past items need separate ones, because otherwise an action could not find its item within the request.

Shapes: B sequences, T history events, X context tokens (T or 2T, and B more with user tokens before them), W width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from genrank.batch import History
from genrank.nn.attention import Queries, Tokens

Organization = Literal["action", "interleaved"]


@dataclass(frozen=True)
class Context:
    """Context tokens: their vectors, their positions as keys, and how they attend."""

    x_XW: Tensor
    tokens: Tokens
    queries: Queries


def tokens_per_event(organization: Organization) -> int:
    """Context tokens of one past exposure."""
    return 2 if organization == "interleaved" else 1


def per_token(values_B: Tensor, offsets: Tensor, count: int) -> Tensor:
    """Each sequence's value for all of its tokens: (B, …) to (N, …). count: N, so the device need not be read."""
    return torch.repeat_interleave(values_B, offsets.diff(), dim=0, output_size=count)


def action_context(x_TW: Tensor, history: History) -> Context:
    """One token per event."""
    tokens = Tokens(history.offsets, history.position, history.time)
    return Context(x_TW, tokens, Queries(tokens, history.position, history.next_time, causal=True))


def interleaved_context(item_TW: Tensor, action_TW: Tensor, history: History, *, as_candidates: bool) -> Context:
    """Alternating item and action tokens. as_candidates: item tokens as queries have the position of their request."""
    candidate, index = history.as_candidate, 2 * history.position

    def by_turns(of_item: Tensor, of_action: Tensor) -> Tensor:
        return torch.stack([of_item, of_action], dim=1).flatten(0, 1)

    offsets = 2 * history.offsets
    time = by_turns(candidate.time, history.time)
    keys = Tokens(offsets, by_turns(index, index + 1), time)
    prefix = by_turns(2 * candidate.prefix, index + 1)  # an action token's prefix is its index
    standing = Tokens(offsets, prefix if as_candidates else keys.position, time)
    next_time = by_turns(candidate.time, history.next_time)
    return Context(by_turns(item_TW, action_TW), keys, Queries(standing, prefix, next_time))


def with_user_tokens(context: Context, user_BW: Tensor) -> Context:
    """The context with one token of the user before each sequence.

    Its time is 0, long before any event: a time taken from the history would differ between packed requests, the first
    of which sees no history.
    """
    x_XW, offsets = context.x_XW, context.tokens.offsets
    num_users = len(user_BW)
    shift = torch.arange(num_users + 1, device=x_XW.device)
    at_user = (offsets + shift)[:-1]
    at_token = torch.arange(len(x_XW), device=x_XW.device) + 1 + per_token(shift[:-1], offsets, len(x_XW))
    zero_B, queries = torch.zeros_like(at_user), context.queries

    def joined(of_token: Tensor, of_user: Tensor) -> Tensor:
        whole = of_token.new_zeros(len(of_token) + num_users, *of_token.shape[1:])
        return whole.index_copy(0, at_token, of_token).index_copy(0, at_user, of_user)

    keys = Tokens(offsets + shift, joined(context.tokens.position + 1, zero_B), joined(context.tokens.time, zero_B))
    standing = Tokens(keys.offsets, joined(queries.tokens.position + 1, zero_B), joined(queries.tokens.time, zero_B))
    return Context(
        joined(x_XW, user_BW),
        keys,
        Queries(
            keys if queries.causal else standing,
            joined(queries.prefix + 1, zero_B),
            joined(queries.next_time, zero_B),
            causal=queries.causal,
        ),
    )


def behind_user_tokens(context: Context) -> Context:
    """The context of later tokens in sequences that begin with a user's token."""

    def shifted(tokens: Tokens) -> Tokens:
        return Tokens(tokens.offsets, tokens.position + 1, tokens.time)

    queries = Queries(shifted(context.queries.tokens), context.queries.prefix + 1, context.queries.next_time)
    return Context(context.x_XW, shifted(context.tokens), queries)


def fully_visible(context: Context) -> Context:
    """The paper's control: every history token sees the whole history."""
    tokens, queries = context.tokens, context.queries
    whole = per_token(tokens.offsets.diff(), tokens.offsets, len(context.x_XW))
    return Context(context.x_XW, tokens, Queries(queries.tokens, whole, queries.next_time, sees_itself=False))
