"""Hostile values for property tests; a call on them must return or raise a typed error."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st
from time_tools import time_limit

import zopo_fast as zf

T = TypeVar("T")

HUGE = 10**5000  # beyond Python's limit of converting integers to decimal

# Texts that break terminals, tables, templates, spreadsheets, parsers and plots.
NASTY = (
    "", " ", "\0", "\x1b[2J\x1b]0;title\x07", "\x9b31m", "\r", "\r\n", "\u2028", "\u2029", "\x85", "\ufeff",
    "\u202e", "\u200b", "\ud800", "\udcff", "e" + "\u0301" * 40, "👩‍👩‍👧‍👦", "\U0010ffff", "[INPUT]",
    "{input}",
    "{prompt}", "[PROMPT]", "[APE]", "[full_DEMO]", "{demonstrations}", "{0}", "{", "}", "{{}}", "%s",
    "%(x)s", "\\1", "\\g<0>", "$x_{", "=1+1", "+1", "-1", "@SUM(A1)", '"', "'", ",", ";", "\t", "#",
    "<b>", "NaN", "1e999", "__proto__", "Score: 10", "a" * 300,
)  # fmt: skip
texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(NASTY),
    st.lists(st.sampled_from(NASTY), max_size=4).map("".join),
    st.text(st.characters(), max_size=10),  # includes lone surrogates
)
numbers: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [0, -0.0, 1, -1, 2, 0.5, 1e308, -1e308, 5e-324, 1e-308, math.nan, math.inf, -math.inf, 2**31, 2**53]
    ),
    st.sampled_from([2**63, 2**64, -(2**63), 10**18, 10**400, HUGE, -HUGE]),
    st.sampled_from([True, False, None, "1", "0x1", b"1"]),
    st.sampled_from(
        [
            np.int8(3), np.uint64(2**64 - 1), np.float16(0.1), np.float32(1e38), np.float64(math.nan),
            np.longdouble("1e4000"), np.bool_(True), np.array(1.0), np.array([1.0]),
            np.datetime64("2020-01-01"), 1j, np.complex128(1), np.str_("1"),
            [], [1], {}, (), object(), int, np.array([1, 2]),
        ]
    ),
    st.integers(-3, 20),
    st.floats(),
)  # fmt: skip
json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), texts, st.sampled_from([10**18, 10**400])
    ),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(texts, below, max_size=4),
    max_leaves=10,
)


@st.composite
def arrays(draw: st.DrawFn, *dims: int) -> Any:
    """Draw an array of about those sizes with hostile numbers, any dtype and memory order, or no array."""
    if draw(st.integers(0, 9)) == 0:
        return draw(numbers)
    shape = tuple(draw(st.sampled_from([n, n, n, n, n, n, 0, 1, n + 1])) for n in dims)
    if draw(st.integers(0, 9)) == 0:
        shape = (*shape, draw(st.integers(0, 2)))
    special = [0.0, -0.0, 1.0, 1e308, -1e308, 5e-324, 1e-308, 1e154, 1e16, 1e-200]
    if draw(st.booleans()):
        special += [math.nan, math.inf]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.normal(size=shape)
    odd = rng.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.9]))
    values[odd] = rng.choice(special, size=int(odd.sum()))
    dtype = draw(
        st.sampled_from(
            ["f8", "f8", "f8", "f4", "f2", ">f8", "g", "i8", "u1", "?", "O", "c16", "U8", "M8[s]"]
        )
    )
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        array = values.astype("i8").astype(dtype) if dtype == "M8[s]" else values.astype(dtype)
    how = draw(
        st.sampled_from(["C", "C", "F", "reversed", "strided", "read-only", "list", "masked", "matrix"])
    )
    if how == "F":
        return np.asfortranarray(array)
    if how == "reversed":
        array = array[::-1]
    if how == "strided" and array.ndim:
        array = np.repeat(array, 2, axis=-1)[..., ::2]
    if how == "read-only":
        array.flags.writeable = False
    if how == "masked":
        return np.ma.masked_array(array, mask=rng.random(array.shape) < 0.5)
    if how == "matrix" and array.ndim == 2:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PendingDeprecationWarning)
            return np.matrix(array)
    return array.tolist() if how == "list" else array


def typed(
    call: Callable[..., T], *args: Any, also: tuple[type[Exception], ...] = (), **kwargs: Any
) -> T | None:
    """Return the result of a call, or None if it raises a typed error or one of `also`.

    The call must not hang, and the message of its error must be printable and short.
    """
    with time_limit():
        try:
            return call(*args, **kwargs)
        except zf.ZopoError as raised:
            error = raised
        except also:
            return None
    assert 0 < len(str(error)) < 20_000, type(error)
    return None


@st.composite
def damaged(draw: st.DrawFn, state: Any) -> Any:
    """Draw a JSON document with one to three values replaced, removed, repeated or out of bounds."""
    state = json.loads(json.dumps(state))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(state))
        if not places:
            break
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        what = draw(st.sampled_from(["value", "number", "number", "gone", "twice", "other"]))
        if what == "gone":
            del holder[key]
        elif what == "twice" and isinstance(holder, list):
            holder.insert(key, holder[key])
        elif what == "other":
            other, at = places[draw(st.integers(0, len(places) - 1))]
            holder[key] = json.loads(json.dumps(other[at])) if at in _keys(other) else None
        elif what == "number":
            holder[key] = draw(
                st.sampled_from([-1, 0, 1, 2, 0.5, 1e308, 10**9, 10**18, 2**63, 2**64, 10**40])
            )
        else:
            holder[key] = draw(json_values)
    return state


def _places(value: Any) -> Any:
    for key in _keys(value):
        yield value, key
        yield from _places(value[key])


def _keys(value: Any) -> Any:
    if isinstance(value, dict):
        return list(value)
    return range(len(value)) if isinstance(value, list) else []
