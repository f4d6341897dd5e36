"""Description of prompts: texts to embed and arrays beside their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zopo_fast.prompts.words import WordFeatures

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Description:
    """Turns prompts into what a search needs to know of them.

    Prompts that are added later are described as the first pool was: by its document frequencies.

    Args:
        pool_prompts: Prompts of the first pool.
        words: True where the search uses the words of prompts.
    """

    def __init__(self, pool_prompts: Sequence[str], *, words: bool = True) -> None:
        self._words = WordFeatures(pool_prompts) if words else None

    def to_embed(self, texts: Sequence[str]) -> list[str]:
        """Return the texts to embed, one a prompt."""
        return list(texts)

    def features(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the word features of k prompts, shape (k, 1024); None without them."""
        return None if self._words is None else self._words.of(texts)

    def linear(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the features of a linear part of the kernel, shape (k, r); None without such a part."""
        return None
