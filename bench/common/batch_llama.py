"""Batched greedy decoding of a Llama model in a GGUF file, by torch on the CPU.

Calls of a benchmark share their instruction and differ in the input. `BatchLlama` computes the keys and
values of a shared prefix once, attends to them with one product for all rows of a group, and decodes all
rows of several groups together, so that every weight is read once for hundreds of rows.

A row of a batch depends on the other rows in the last digits only, as with every batching server.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

PREFIX_CACHE = 64  # prefixes; one of 100 tokens takes 4.6 MB in bfloat16
MAX_WASTE, SMALL = 2.0, 512  # padded tokens for each token of a batch; padded tokens always allowed
_SPECIAL = 3  # token type of control tokens in GGUF


@dataclass(frozen=True)
class Layer:
    """Weights of one block; the query, key and value rows are one matrix, so are gate and up."""

    attention_norm: Any
    qkv: Any
    out: Any
    ffn_norm: Any
    gate_up: Any
    down: Any


@dataclass
class Row:
    """One call: its tokens, and the answer as it grows.

    Args:
        tokens: of the rendered chat.
        max_tokens: length of the longest answer.
        stopped: tells from the answer's tokens whether a stop text has appeared.
    """

    tokens: Sequence[int]
    max_tokens: int
    stopped: Callable[[list[int]], bool] | None = None
    answer: list[int] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, token: int, end: frozenset[int]) -> None:
        """Append a token, or finish the row."""
        if token in end:
            self.finish_reason = "stop"
            return
        self.answer.append(token)
        if self.stopped is not None and self.stopped(self.answer):
            self.finish_reason = "stop"
        elif len(self.answer) >= self.max_tokens:
            self.finish_reason = "length"


@dataclass
class Group:
    """Rows with a common prefix of `shared` tokens."""

    rows: list[Row]
    shared: int

    @property
    def longest(self) -> int:
        """Tokens of the longest tail, which follows the prefix."""
        return max(len(row.tokens) for row in self.rows) - self.shared

    @property
    def tokens(self) -> int:
        """Tokens of all tails."""
        return sum(len(row.tokens) - self.shared for row in self.rows)


def group_by_prefix(rows: Sequence[Row], most: int) -> list[Group]:
    """Group rows such that sharing the common prefix of each group saves the most tokens.

    Sorted rows with a common prefix are neighbours. Sharing n tokens among k rows saves (k - 1) n, so the
    best groups are intervals of the sorted rows, found by dynamic programming in O(rows x most).

    Args:
        rows: any number.
        most: rows in a group.
    """
    ordered = sorted(rows, key=lambda row: tuple(row.tokens))
    # The last token of a row is computed for its logits, so it is never shared.
    own = [len(row.tokens) - 1 for row in ordered]
    common = [common_prefix(a.tokens, b.tokens) for a, b in itertools.pairwise(ordered)]
    saved = [0.0] + [-1.0] * len(ordered)  # by the rows before `end`, and where the last group begins
    begin = [0] * (len(ordered) + 1)
    for end in range(1, len(ordered) + 1):
        shared = own[end - 1]
        for start in range(end - 1, max(-1, end - 1 - most), -1):
            if start < end - 1:
                shared = min(shared, own[start], common[start])
            if (total := saved[start] + (end - 1 - start) * shared) > saved[end]:
                saved[end], begin[end] = total, start
    groups = []
    end = len(ordered)
    while end > 0:
        members = ordered[begin[end] : end]
        shared = min([*own[begin[end] : end], *common[begin[end] : end - 1]])
        groups.append(Group(members, shared))
        end = begin[end]
    return groups[::-1]


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the number of leading tokens that two sequences share."""
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length


def batches_of(groups: Sequence[Group], most: int) -> list[list[Group]]:
    """Pack groups into batches of at most `most` rows, with few padded tokens.

    Attention pads all groups of a batch to the largest group and to the longest tail.
    """
    batches: list[list[Group]] = []
    for group in sorted(groups, key=lambda group: (-group.longest, -len(group.rows))):
        for batch in batches:
            together = [*batch, group]
            rows = max(len(each.rows) for each in together) * len(together)
            padded = max(MAX_WASTE * sum(each.tokens for each in together), SMALL)
            if rows <= most and rows * batch[0].longest <= padded:
                batch.append(group)
                break
        else:
            batches.append([group])
    return batches


class Vocabulary:
    """Tokenizer and chat template of a GGUF file with a byte-level BPE."""

    def __init__(self, fields: Callable[[str], Any]) -> None:
        from jinja2.sandbox import ImmutableSandboxedEnvironment
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        tokens = fields("tokenizer.ggml.tokens")
        merges = [tuple(merge.split(" ")) for merge in fields("tokenizer.ggml.merges")]
        self._tokenizer = Tokenizer(models.BPE({text: n for n, text in enumerate(tokens)}, merges))
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),  # as the pre-tokenizer "smollm" does
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        self._tokenizer.decoder = decoders.ByteLevel()
        types = fields("tokenizer.ggml.token_type")
        special = [text for text, kind in zip(tokens, types, strict=True) if kind == _SPECIAL]
        self._tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
        names = ("<|im_end|>", "<|endoftext|>")
        self.end = frozenset({tokens.index(name) for name in names if name in tokens})
        self._template = ImmutableSandboxedEnvironment().from_string(fields("tokenizer.chat_template"))

    def encode(self, messages: Sequence[Any]) -> list[int]:
        """Return the tokens of a chat that the assistant is to answer."""
        text = self._template.render(messages=messages, add_generation_prompt=True)
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of an answer."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True)


class BatchLlama:
    """Llama model that answers many rows at a time, greedily.

    Args:
        path: GGUF file of a model of the architecture "llama" with tied embeddings.
        dtype: of the matrix products and of the key-value cache: "float32" or "bfloat16"; norms, softmax
            and the residual stream are float32.
        max_rows: rows of a batch.
    """

    def __init__(self, path: Path, *, dtype: str = "float32", max_rows: int = 256) -> None:
        from gguf import GGUFReader, dequantize

        reader = GGUFReader(path)
        fields: Callable[[str], Any] = lambda name: reader.fields[name].contents()  # noqa: E731
        if fields("general.architecture") != "llama":
            raise ValueError(f"{path}: architecture {fields('general.architecture')!r}, not 'llama'")
        self.vocabulary = Vocabulary(fields)
        self.dtype = getattr(torch, dtype)
        self.max_rows = max_rows
        self.heads = fields("llama.attention.head_count")
        self.kv_heads = fields("llama.attention.head_count_kv")
        self.width = fields("llama.rope.dimension_count")
        self.epsilon = fields("llama.attention.layer_norm_rms_epsilon")
        self.context = fields("llama.context_length")
        data = {t.name: torch.from_numpy(dequantize(t.data, t.tensor_type).copy()) for t in reader.tensors}
        embedding = data["token_embd.weight"]
        self.embedding = embedding.float()
        self.head = data.get("output.weight", embedding).to(self.dtype)
        self.norm = data["output_norm.weight"].float()
        self.layers = [self._layer(data, number) for number in range(fields("llama.block_count"))]
        rates = fields("llama.rope.freq_base") ** -(torch.arange(0, self.width, 2).double() / self.width)
        angles = torch.arange(self.context).double()[:, None] * rates
        self._cos, self._sin = angles.cos().float(), angles.sin().float()
        self._prefixes: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._lock = threading.Lock()  # batches are computed on several threads

    def _layer(self, data: dict[str, Any], number: int) -> Layer:
        def weight(name: str) -> Any:
            return data[f"blk.{number}.{name}.weight"]

        def rows(name: str, heads: int) -> Any:
            # llama.cpp interleaves the two halves that a rotation pairs; here they are contiguous.
            matrix = weight(name)
            return matrix.reshape(heads, self.width // 2, 2, -1).transpose(1, 2).reshape(matrix.shape)

        qkv = torch.cat([rows("attn_q", self.heads), rows("attn_k", self.kv_heads), weight("attn_v")])
        gate_up = torch.cat([weight("ffn_gate"), weight("ffn_up")])
        return Layer(
            weight("attn_norm").float(),
            qkv.to(self.dtype),
            weight("attn_output").to(self.dtype),
            weight("ffn_norm").float(),
            gate_up.to(self.dtype),
            weight("ffn_down").to(self.dtype),
        )

    def answer(self, rows: Sequence[Row]) -> None:
        """Fill in the answers of all rows; each must fit into the context."""
        with torch.inference_mode():
            for batch in batches_of(group_by_prefix(rows, self.max_rows), self.max_rows):
                _Batch(self, batch).run()

    def prefix(self, tokens: tuple[int, ...]) -> Any:
        """Return the keys and values (layers, 2, kv_heads, n, width) of a prefix, computed once."""
        with self._lock:
            if tokens in self._prefixes:
                self._prefixes.move_to_end(tokens)
                return self._prefixes[tokens]
            # A prefix that begins like one in the cache is computed from there on.
            known = max(self._prefixes, key=lambda other: common_prefix(other, tokens), default=())
            common = min(common_prefix(known, tokens), len(tokens) - 1)
            past = self._prefixes[known][..., :common, :] if common > 0 else None
        position = torch.arange(common, len(tokens))
        x = self.embedding[torch.tensor(tokens[common:])]
        stored = []
        for number, layer in enumerate(self.layers):
            q, k, v = self.queries(layer, x, position)
            k, v = k.transpose(0, 1), v.transpose(0, 1)
            if past is not None:
                k, v = torch.cat([past[number, 0], k], 1), torch.cat([past[number, 1], v], 1)
            stored.append(torch.stack([k, v]))
            grouped = q.view(-1, self.kv_heads, self.heads // self.kv_heads, self.width).permute(1, 2, 0, 3)
            scores = (grouped @ k[:, None].transpose(-1, -2)).float() / self.width**0.5
            hidden = torch.arange(len(tokens))[None, :] > position[:, None]
            weights = scores.masked_fill(hidden, float("-inf")).softmax(-1).to(self.dtype)
            mixed = (weights @ v[:, None]).permute(2, 0, 1, 3).reshape(len(position), -1)
            x = self.feed_forward(layer, x + functional.linear(mixed, layer.out).float())
        result = torch.stack(stored)
        with self._lock:
            self._prefixes[tokens] = result
            if len(self._prefixes) > PREFIX_CACHE:
                self._prefixes.popitem(last=False)
        return result

    def queries(self, layer: Layer, x: Any, position: Any) -> tuple[Any, Any, Any]:
        """Return rotated queries and keys, and values: (n, heads or kv_heads, width)."""
        n = len(x)
        qkv = functional.linear(self._normed(x, layer.attention_norm), layer.qkv)
        turned, v = qkv.view(n, -1, self.width).split([self.heads + self.kv_heads, self.kv_heads], 1)
        cos, sin = self._cos[position][:, None], self._sin[position][:, None]
        one, two = turned.float().chunk(2, -1)
        turned = torch.cat([one * cos - two * sin, two * cos + one * sin], -1).to(self.dtype)
        return turned[:, : self.heads], turned[:, self.heads :], v

    def feed_forward(self, layer: Layer, x: Any) -> Any:
        """Return the residual stream after the second half of a block."""
        gate, up = functional.linear(self._normed(x, layer.ffn_norm), layer.gate_up).chunk(2, -1)
        return x + functional.linear(functional.silu(gate) * up, layer.down).float()

    def best_token(self, x: Any) -> Any:
        """Return the likeliest next token after each row of the residual stream."""
        return functional.linear(self._normed(x, self.norm), self.head).argmax(-1)

    def _normed(self, x: Any, weight: Any) -> Any:
        return functional.rms_norm(x, x.shape[-1:], weight, self.epsilon).to(self.dtype)


class _Batch:
    """Rows of several groups, padded to (groups, rows of the largest group) slots."""

    def __init__(self, model: BatchLlama, groups: Sequence[Group]) -> None:
        self.model = model
        self.slots = [list(group.rows) for group in groups]
        tails = [[list(row.tokens[group.shared :]) for row in group.rows] for group in groups]
        prefixes = [model.prefix(tuple(group.rows[0].tokens[: group.shared])) if group.shared else None
                    for group in groups]  # fmt: skip
        self.prefix_length = torch.tensor([group.shared for group in groups])
        widest = max(1, int(self.prefix_length.max()))
        self.past = torch.zeros(
            len(model.layers), 2, len(groups), model.kv_heads, widest, model.width, dtype=model.dtype
        )
        for number, prefix in enumerate(prefixes):
            if prefix is not None:
                self.past[:, :, number, :, : prefix.shape[-2]] = prefix
        self.rows = max(len(group.rows) for group in groups)
        self.first = max(len(tail) for group in tails for tail in group)
        steps = max(row.max_tokens for group in groups for row in group.rows)
        shape = (len(groups), self.rows)
        # Keys and values after the prefix: (layers, 2, groups, kv_heads, rows, tokens, width).
        self.own = torch.zeros(
            len(model.layers), 2, *shape[:1], model.kv_heads, self.rows, self.first + steps, model.width,
            dtype=model.dtype,
        )  # fmt: skip
        self.tail_length = torch.zeros(shape, dtype=torch.long)
        self.first_tokens = torch.zeros(*shape, self.first, dtype=torch.long)
        for g, group in enumerate(tails):
            for r, tail in enumerate(group):
                self.tail_length[g, r] = len(tail)
                self.first_tokens[g, r, : len(tail)] = torch.tensor(tail)

    def run(self) -> None:
        """Read the inputs, then write one token of every unfinished row at a time."""
        token = self._read()
        step = 0
        while True:
            for group, numbers in zip(self.slots, token.tolist(), strict=True):
                for row, number in zip(group, numbers, strict=False):
                    if row.finish_reason is None:
                        row.add(number, self.model.vocabulary.end)
            token = self._compact(token, step)
            if token is None:
                return
            token = self._write(token, step)
            step += 1

    def _read(self) -> Any:
        """Compute the tails of all rows; return the first token of each answer (groups, rows)."""
        t = torch.arange(self.first)
        valid = t < self.tail_length[..., None]
        index = valid.flatten().nonzero()[:, 0]  # padding takes no part in the products with weights
        position = (self.prefix_length[:, None, None] + t.expand_as(valid)).flatten()[index]
        x = self.model.embedding[self.first_tokens.flatten()[index]]
        later = torch.arange(self.first)[None, :] > t[:, None]  # (queries, keys)
        x = self._blocks(x, position, index, 0, self.first, later)
        last = torch.full((valid.numel(),), 0)
        last[index] = torch.arange(len(index))
        ends = torch.arange(self.tail_length.numel()) * self.first + (self.tail_length.flatten() - 1).clamp(0)
        return self.model.best_token(x[last[ends]]).view(self.tail_length.shape)

    def _write(self, token: Any, step: int) -> Any:
        """Append one token to every row; return the next ones."""
        position = (self.prefix_length[:, None] + self.tail_length + step).flatten()
        x = self.model.embedding[token.flatten()]
        now = self.first + step
        keys = torch.arange(now + 1)
        # Slots between the end of a tail and the longest tail are padding.
        hidden = (keys >= self.tail_length[..., None]) & (keys < self.first)
        x = self._blocks(x, position, None, now, 1, hidden[:, None, :, None, None])
        return self.model.best_token(x).view(token.shape)

    def _blocks(self, x: Any, position: Any, index: Any, start: int, length: int, hidden: Any) -> Any:
        """Run all blocks on packed tokens.

        Args:
            x: (tokens, d).
            position: (tokens,).
            index: places of the tokens in (groups, rows, length); None: all of them.
            start: place of the first token behind the prefix.
            length: tokens of a row.
            hidden: keys behind the prefix that a query does not see, to broadcast to
                (groups, kv_heads, rows, queries, heads of a kv_head, keys).
        """
        model = self.model
        groups, rows, end = len(self.slots), self.rows, start + length
        repeat = model.heads // model.kv_heads
        shape = (groups, rows, length)
        if hidden.ndim == 2:
            hidden = hidden[:, None, :]
        beyond = torch.arange(self.past.shape[-2]) >= self.prefix_length[:, None]
        beyond = beyond[:, None, None, :]
        widest = self.past.shape[-2]
        for number, layer in enumerate(model.layers):
            q, k, v = (self._spread(part, index, shape) for part in model.queries(layer, x, position))
            own_k, own_v = self.own[number, 0, ..., :end, :], self.own[number, 1, ..., :end, :]
            own_k[..., start:end, :] = k.permute(0, 3, 1, 2, 4)
            own_v[..., start:end, :] = v.permute(0, 3, 1, 2, 4)
            # All queries of a group meet its prefix in one product:
            # (groups, kv_heads, rows, queries, repeat, width).
            q = q.view(*shape, model.kv_heads, repeat, model.width).permute(0, 3, 1, 2, 4, 5)
            q = q.reshape(groups, model.kv_heads, rows * length * repeat, model.width) * model.width**-0.5
            far = (q @ self.past[number, 0].transpose(-1, -2)).float().masked_fill_(beyond, float("-inf"))
            near = (q.view(groups, model.kv_heads, rows, -1, model.width) @ own_k.transpose(-1, -2)).float()
            near = near.view(groups, model.kv_heads, rows, length, repeat, end)
            near = near.masked_fill_(hidden, float("-inf")).view(groups, model.kv_heads, -1, end)
            weights = torch.cat([far, near], -1).softmax(-1).to(model.dtype)
            mixed = weights[..., :widest] @ self.past[number, 1]
            near = weights[..., widest:].reshape(groups, model.kv_heads, rows, -1, end) @ own_v
            mixed = mixed + near.view(mixed.shape)
            mixed = mixed.view(groups, model.kv_heads, rows, length, repeat, model.width)
            mixed = mixed.permute(0, 2, 3, 1, 4, 5).reshape(groups * rows * length, -1)
            if index is not None:
                mixed = mixed[index]
            x = model.feed_forward(layer, x + functional.linear(mixed, layer.out).float())
        return x

    def _spread(self, part: Any, index: Any, shape: tuple[int, ...]) -> Any:
        """Put packed tokens (tokens, heads, width) into (groups, rows, length, heads, width)."""
        if index is not None:
            full = part.new_zeros(shape[0] * shape[1] * shape[2], *part.shape[1:])
            full[index] = part
            part = full
        return part.view(*shape, *part.shape[1:])

    def _compact(self, token: Any, step: int) -> Any:
        """Leave out finished rows once they are many; return the tokens kept, None when all are finished."""
        alive = [[n for n, row in enumerate(group) if row.finish_reason is None] for group in self.slots]
        groups = [number for number, rows in enumerate(alive) if rows]
        if not groups:
            return None
        rows = max(len(alive[number]) for number in groups)
        if rows * len(groups) > 0.8 * token.numel():
            return token
        pick = torch.tensor([(alive[g] + alive[g][:1] * rows)[:rows] for g in groups])
        chosen = torch.tensor(groups)
        end = self.first + step
        steps = max(
            self.slots[g][n].max_tokens - len(self.slots[g][n].answer) for g in groups for n in alive[g]
        )
        own = self.own.new_zeros(*self.own.shape[:2], len(groups), self.own.shape[3], rows, end + steps,
                                 self.own.shape[-1])  # fmt: skip
        for new, old in enumerate(groups):
            own[:, :, new, :, :, :end] = self.own[:, :, old][:, :, :, pick[new], :end]
        self.own, self.past = own, self.past[:, :, chosen]
        self.prefix_length = self.prefix_length[chosen]
        self.tail_length = self.tail_length[chosen[:, None], pick]
        self.slots = [[self.slots[g][n] for n in alive[g]] for g in groups]
        self.rows = rows
        return token[chosen[:, None], pick]
