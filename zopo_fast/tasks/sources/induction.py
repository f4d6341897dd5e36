"""Task files of the instruction-induction benchmark: metrics by file name, and fields of its own."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from zopo_fast.tasks.rows import Row, Wanted, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable

# Metrics of the instruction-induction benchmark by file name; its other tasks use induction_match.
_INDUCTION_METRICS = {
    "common_concept": "induction_f1",
    "informal_to_formal": "induction_f1",
    "orthography_starts_with": "induction_set",
    "taxonomy_animal": "induction_set",
    "synonyms": "induction_contains",
}
# Fields of the benchmark with further accepted outputs.
ALTERNATIVES = ("other_rhymes", "possible_translations", "possible_outputs")


def metric_of(name: str, document: object) -> str:
    """Return the default metric of a JSON file: the benchmark's for its tasks, else exact match.

    Args:
        name: of the file, without suffix.
        document: content of the file; the benchmark numbers its examples, `{"examples": {"1": {...}, ...}}`.
    """
    examples = document.get("examples") if isinstance(document, dict) else None
    return _INDUCTION_METRICS.get(name, "induction_match" if isinstance(examples, dict) else "exact_match")


def unified(rows: Iterable[Row], wanted: Wanted, seed: int) -> list[Row]:
    """Convert examples of the benchmark to input and output fields; others stay as they are.

    Args:
        rows: as the file holds them.
        wanted: fields of input and output.
        seed: of the order within pairs of cause and effect.

    Raises:
        TaskError: a field of the benchmark holds another type.
    """
    coin = random.Random(seed)
    return [_unified(row, wanted.input, wanted.output, coin) for row in rows]


def _unified(row: Row, input_field: str, output_field: str, coin: random.Random) -> Row:
    fields = dict(row.fields)
    if "cause" in fields and "effect" in fields and input_field not in fields:
        pair = [_filled(row, key) for key in ("cause", "effect")]
        if coin.random() < 0.5:  # the order must not reveal the answer
            pair.reverse()
        fields |= {input_field: f"Sentence 1: {pair[0]} Sentence 2: {pair[1]}", output_field: fields["cause"]}
    elif "items" in fields and "all_common_concepts" in fields and input_field not in fields:
        items, concepts = fields["items"], fields["all_common_concepts"]
        if not isinstance(items, list) or not isinstance(concepts, list):
            raise row.error("'items' and 'all_common_concepts' must be lists")
        concepts = [fields["concept"], *concepts] if "concept" in fields else concepts
        fields |= {
            input_field: ", ".join(text_of(row, item, "items") for item in items),
            output_field: concepts,
        }
    elif output_field in fields:
        for key in ALTERNATIVES:
            if isinstance(fields.get(key), list):
                first = fields[output_field]
                # The published files hold empty ones.
                others = [other for other in fields[key] if other != ""]
                fields[output_field] = [*(first if isinstance(first, list) else [first]), *others]
    return replace(row, fields=fields)


def _filled(row: Row, key: str) -> str:
    text = text_of(row, row.fields[key], key)
    if not text.strip():
        raise row.error(f"{key!r} is empty")
    return text
