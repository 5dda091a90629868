"""`SentPages`: which beginnings of texts a process has got, as its own cache of prefixes cannot be asked from outside.

It keeps as many hashes of pages as there are pages, and forgets the ones that nobody sent for longest, as that cache
does: what it says may be outdated, and then costs time and no more.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import takewhile

from bitnet_jit.engine.text.prefix_cache import keys_of
from bitnet_jit.problem import PAGE


class SentPages:
    """Hashes of whole pages of texts.

    Args:
        limit: of them; 0 where no pages are kept.

    >>> pages = SentPages(2)
    >>> pages.note(range(200))
    >>> pages.num_known(range(200)), pages.num_known(range(1, 200))
    (128, 0)
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._keys: OrderedDict[bytes, None] = OrderedDict()

    def num_known(self, ids: Sequence[int]) -> int:
        """Return how many tokens of a prompt need not be computed; one at least is."""
        if not self._keys:
            return 0
        return PAGE * sum(1 for _ in takewhile(self._keys.__contains__, keys_of(ids[: len(ids) - 1])))

    def note(self, ids: Sequence[int]) -> None:
        """Note a text; its beginning counts as used after its end."""
        keys = list(keys_of(ids))[: self._limit] if self._limit else []
        for key in reversed(keys):
            self._keys[key] = None
            self._keys.move_to_end(key)
        while len(self._keys) > self._limit:
            self._keys.popitem(last=False)
