"""`PrefixCache`: the pages of earlier texts, for requests that begin alike.

A page is known by a hash of all tokens up to its end, so that equal pages in different places are not taken for one
another. Pages are shared by reference; what nobody used for longest goes first, ends of texts before beginnings.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import takewhile

from bitnet_jit.problem import PAGE
from bitnet_jit.runner.paged_cache import PagedCache
from bitnet_jit.runner.pages import PagedSequence

DIGEST_BYTES = 16


class PrefixCache:
    """Whole pages of texts that have been computed.

    Args:
        cache: the pages.

    Attributes:
        hits: tokens that requests did not compute, as they were found.
        asked: tokens of those requests.
    """

    def __init__(self, cache: PagedCache) -> None:
        self._cache = cache
        self._pages: OrderedDict[bytes, int] = OrderedDict()  # the one that nobody used for longest first
        self.hits = self.asked = 0

    def __len__(self) -> int:
        """Return the number of pages that it keeps."""
        return len(self._pages)

    def num_known(self, ids: Sequence[int]) -> int:
        """Return how many tokens `match` would find now; asked by any thread, it changes nothing."""
        return PAGE * sum(1 for _ in takewhile(self._pages.__contains__, keys_of(ids[: len(ids) - 1])))

    def match(self, ids: Sequence[int]) -> PagedSequence:
        """Return a sequence of the longest beginning that is kept, of whole pages; one token at least is left over."""
        pages: list[int] = []
        keys: list[bytes] = []
        for key in keys_of(ids[: len(ids) - 1]):
            page = self._pages.get(key)
            if page is None:
                break
            pages.append(page)
            keys.append(key)
        self._touch(keys)
        return self._cache.fork(PagedSequence(pages, PAGE * len(pages)))

    def keep(self, ids: Sequence[int], sequence: PagedSequence) -> None:
        """Keep the whole pages of a sequence, which holds the first ones of these ids."""
        keys = list(keys_of(ids[: sequence.length]))
        for key, page in zip(keys, sequence.pages, strict=False):
            if key not in self._pages:
                self._pages[key] = page
                self._cache.pool.share([page])
        self._touch(keys)

    def evict(self) -> bool:
        """Give up a page that was not used for longest; return whether there was one."""
        if not self._pages:
            return False
        _, page = self._pages.popitem(last=False)
        self._cache.pool.release([page])
        return True

    def clear(self) -> None:
        """Give up all pages."""
        while self.evict():
            pass

    def _touch(self, keys: Sequence[bytes]) -> None:
        """Note that pages are used; the beginning of a text counts as used after its end."""
        for key in reversed(keys):
            self._pages.move_to_end(key)


def keys_of(ids: Sequence[int]) -> Iterator[bytes]:
    """Yield a key for each whole page of a text.

    >>> [len(list(keys_of(range(length)))) for length in (63, 64, 200)]
    [0, 1, 3]
    """
    before = b""
    for start in range(0, len(ids) - PAGE + 1, PAGE):
        page = array("q", ids[start : start + PAGE]).tobytes()
        before = hashlib.blake2b(before + page, digest_size=DIGEST_BYTES).digest()
        yield before
