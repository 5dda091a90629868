"""Calls of paged attention: sequences that are in a cache in part, as NumPy arrays. No torch here."""

from dataclasses import dataclass

import numpy as np
from halves import stored, values
from hypothesis import strategies as st
from numba_calls import rounded

from bitnet_jit.kernels.numba.arrays import STORAGE, run
from bitnet_jit.problem import PAGE, Problem, rows_bucket

ARGUMENTS = ("qkv", "keys", "values", "rotary", "positions", "starts", "tables")
PAGES = ("keys", "values", "key_scale", "value_scale")
LENGTHS = (1, 2, 3, 17, 33, 63, 64, 65, 127, 129, 200)


@dataclass(frozen=True)
class Heads:
    """The heads of a model, and the dtypes of a call."""

    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    x_dtype: str = "float32"
    cache_dtype: str = "float32"

    @property
    def width(self):
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    def problem(self, rows):
        """The problem of a call."""
        return Problem(
            "paged_attention",
            "cpu",
            rows_bucket(rows),
            self.heads * self.head_dim,
            self.width,
            x_dtype=self.x_dtype,
            y_dtype=self.x_dtype,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            cache_dtype=self.cache_dtype,
        )


@dataclass(frozen=True)
class Texts:
    """Sequences as wholes: what their tokens hold, and the pages that they will have.

    Attributes:
        model: the heads.
        qkv: per sequence (length, width) as stored.
        rotary: (context, head_dim) float32.
        tables: (sequences, pages); entries beyond a sequence's pages are -1.
        num_pages: of the cache, one of which no sequence has.
    """

    model: Heads
    qkv: tuple
    rotary: np.ndarray
    tables: np.ndarray
    num_pages: int

    def cache(self):
        """Empty pages, full of NaN; those of int8 full of a code beside scales that are NaN."""
        m = self.model
        shapes = (self.num_pages, m.kv_heads, m.head_dim, PAGE), (self.num_pages, m.kv_heads, PAGE, m.head_dim)
        if m.cache_dtype == "int8":
            scales = [np.full((self.num_pages, m.kv_heads, PAGE), np.nan, np.float32) for _ in shapes]
            return [*(np.full(shape, -128, np.int8) for shape in shapes), *scales]
        return [stored(np.full(shape, np.nan, np.float32), m.cache_dtype)[0] for shape in shapes]

    def call(self, parts, padding=0):
        """The arguments of a call but the pages: of each sequence (first position, how many tokens)."""
        rows = [self.qkv[r][first : first + count] for r, (first, count) in enumerate(parts)]
        rows.append(stored(np.full((padding, self.model.width), np.nan, np.float32), self.model.x_dtype)[0])
        positions = [np.arange(first, first + count) for first, count in parts] + [np.full(padding, -1)]
        starts = np.cumsum([0, *(count for _, count in parts)])
        return {
            "qkv": np.concatenate(rows),
            "rotary": self.rotary,
            "positions": np.concatenate(positions).astype(np.int32),
            "starts": starts.astype(np.int32),
            "tables": self.tables,
        }


def make_texts(model, lengths, seed, shared=0):
    """Sequences of some lengths, with pages in any order; the first `shared` pages of all are those of the first."""
    rng = np.random.default_rng(seed)
    counts = [-(-length // PAGE) for length in lengths]
    pages = iter(rng.permutation(sum(counts) + 1))
    tables = np.full((len(lengths), max(counts) + 1), -1, np.int32)
    qkv = []
    for r, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        tables[r, :count] = [next(pages) for _ in range(count)]
        qkv.append(rng.standard_normal((length, model.width)).astype(np.float32))
        same = min(shared, counts[0], count)
        if r and same * PAGE <= min(length, lengths[0]):
            tables[r, :same] = tables[0, :same]
            qkv[r][: same * PAGE] = qkv[0][: same * PAGE]
    angles = np.arange(max(lengths))[:, None] * rng.random(model.head_dim // 2)
    rotary = np.concatenate((np.cos(angles), np.sin(angles)), 1).astype(np.float32)
    return Texts(model, tuple(stored(x, model.x_dtype)[0] for x in qkv), rotary, tables, sum(counts) + 1)


def pages_of(cache):
    """The arguments that a cache is: pages, and scales where it has them."""
    return dict.fromkeys(PAGES) | dict(zip(PAGES, cache, strict=False))


def run_attention(kernel, model, call, cache, team=None):
    """Run a kernel: it writes into the pages; return y, which was poisoned before."""
    y = stored(np.full((len(call["qkv"]), model.heads * model.head_dim), np.nan, np.float32), model.x_dtype)[0]
    y = np.ascontiguousarray(y.astype(STORAGE[model.x_dtype]))
    run(kernel, model.problem(len(y)), call | pages_of(cache) | {"y": y}, team=team)
    return y


def assert_attends(actual, cache, expected, model):
    """Compare y with the reference within its bound, and the pages with what it has, bit for bit."""
    step = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-10}[model.x_dtype]
    y = values(actual, model.x_dtype)
    assert np.array_equal(np.isnan(y), np.isnan(expected.y))
    error = np.abs(y - expected.y)
    assert not (error > 4 * 2.0**-24 * expected.bound + step * np.abs(expected.y) + 1e-7).any(), np.nanmax(error)
    right_pages = (expected.keys, expected.values, expected.key_scale, expected.value_scale)
    for pages, right in zip(cache, right_pages[: len(cache)], strict=True):
        np.testing.assert_array_equal(wide_pages(pages, model), right)


def wide_pages(pages, model):
    """Pages or scales as float32."""
    return pages if pages.dtype == np.float32 else values(pages, model.cache_dtype)


def wide(call, cache, model):
    """A call as the reference takes it."""
    return {
        **call,
        "qkv": values(call["qkv"], model.x_dtype),
        **pages_of([wide_pages(a, model) for a in cache]),
        "rounded": lambda x: rounded(np.ascontiguousarray(x, np.float32), model.cache_dtype),
    }


@st.composite
def chunks(draw, length):
    """The number of tokens of each call that a sequence is part of."""
    kind = draw(st.sampled_from(("whole", "few", "chunks")))
    if kind == "whole":
        return [length]
    most = 3 if kind == "few" and length <= 65 else 70
    counts = []
    while sum(counts) < length:
        counts.append(min(draw(st.integers(1, most)), length - sum(counts)))
    return counts


@st.composite
def schedules(draw, lengths):
    """Calls until all sequences are done: of each sequence (first position, tokens), and padding tokens."""
    rest = [draw(chunks(length)) for length in lengths]
    done, calls = [0] * len(lengths), []
    while any(rest):
        alone = draw(st.booleans())
        waiting = [r for r, counts in enumerate(rest) if counts]
        turn = waiting[:1] if alone else waiting
        counts = [rest[r].pop(0) if r in turn else 0 for r in range(len(lengths))]
        calls.append(([*zip(done, counts, strict=True)], draw(st.integers(0, 2))))
        done = [first + count for first, count in zip(done, counts, strict=True)]
    return calls
