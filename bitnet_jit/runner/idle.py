"""The runner that the last call of a model left, for the next one: its pages are there, and its steps are captured."""

from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import nn

from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.ops.call_cache import revision
from bitnet_jit.runner.paged_cache import PagedCache
from bitnet_jit.runner.runner import Runner

if TYPE_CHECKING:
    from bitnet_jit.models.network import Network

MAX_SHARE = 8  # of a device's memory: an idle runner keeps no more than one part in so many


class IdleRunner:
    """At most one runner of a network, kept between calls; copies of it are empty."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._runner: Runner | None = None
        self._keys: WeakKeyDictionary[Runner, tuple[object, ...]] = WeakKeyDictionary()

    def take(self, network: "Network", pages: int, sequences: int) -> Runner:
        """Return a runner of a network with so many pages and slots at least, all free: the one kept, or a new one.

        Raises:
            InvalidInput: memory does not suffice.
        """
        key = key_of(network)
        with self._lock:
            runner, self._runner = self._runner, None
        if runner is not None and self._keys[runner] == key and has_room(runner.cache, pages, sequences):
            runner.network = network
            return runner
        del runner  # its pages are given back before others are asked for
        runner = Runner(network, rounded(pages), num_sequences=sequences)
        self._keys[runner] = key
        return runner

    def give(self, runner: Runner) -> None:
        """Keep a runner for the next call, unless it is very large or somebody still has pages."""
        pool, device = runner.cache.pool, runner.network.device
        if pool.num_free == pool.count and MAX_SHARE * runner.cache.num_bytes <= kind_of(device).total_memory(device):
            del runner.network  # which has this one: without a circle it is freed with its last user
            with self._lock:
                self._runner = runner

    def __deepcopy__(self, memo: dict[int, Any]) -> "IdleRunner":
        return IdleRunner()

    def __reduce__(self) -> tuple[type["IdleRunner"], tuple[()]]:
        return IdleRunner, ()


def has_room(cache: PagedCache, pages: int, sequences: int) -> bool:
    """Return whether a cache is large enough for so many pages, and sequences with states."""
    return cache.pool.count >= pages and (cache.states is None or cache.slots.count >= sequences)


def rounded(pages: int) -> int:
    """Return a number of pages that somewhat longer texts fit in too, at most an eighth more.

    >>> [rounded(pages) for pages in (1, 13, 32, 33, 1000)]
    [1, 13, 32, 36, 1024]
    """
    step = max(1, 1 << (pages - 1).bit_length() >> 4)
    return -(-pages // step) * step


def key_of(network: "Network") -> tuple[object, ...]:
    """Return what pages and captured steps depend on: dtypes, where the weights lie, and which kernels are chosen."""
    return network.dtype, network.cache_dtype, revision(), *addresses(network)


def addresses(module: nn.Module) -> list[int]:
    """Return where the parameters of a module lie; a tenth of the time of `parameters()`, which names each of them."""
    places, left = [], [module]
    while left:
        current = left.pop()
        places += [parameter.data_ptr() for parameter in current._parameters.values() if parameter is not None]
        left += [child for child in current._modules.values() if child is not None]
    return places
