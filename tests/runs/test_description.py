"""Description of prompts for a search whose pool may grow."""

from __future__ import annotations

import numpy as np

import zopo_fast as zf
from zopo_fast.runs.growth.describe import Description

POOL = ["Name the word.", "Name the word:\nA:", "Which word is it?", "Say which word it is."]
DRAFTS = ["Name which word it is:\nA:", "Count."]


def test_added_prompts_are_described_by_the_first_pool() -> None:
    about = Description(POOL)
    np.testing.assert_array_equal(about.features(POOL), zf.word_features(POOL))
    np.testing.assert_array_equal(about.features(DRAFTS), zf.word_features(DRAFTS, POOL))
    assert about.to_embed(DRAFTS) == DRAFTS
    assert about.linear(DRAFTS) is None


def test_a_search_without_words_has_no_features() -> None:
    assert Description(POOL, words=False).features(DRAFTS) is None
