"""The runner that the last call of a model left, for the next one: its pages are there, and its steps are captured."""

from threading import Lock
from typing import TYPE_CHECKING, Any

from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.ops.call_cache import revision
from bitnet_jit.runner.runner import Runner

if TYPE_CHECKING:
    from bitnet_jit.models.network import Network

MAX_SHARE = 8  # of a device's memory: an idle runner keeps no more than one part in so many


class IdleRunner:
    """At most one runner of a network, kept between calls; copies of it are empty."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._runner: Runner | None = None
        self._key: tuple[object, ...] = ()

    def take(self, network: "Network", pages: int) -> Runner:
        """Return a runner of a network with that many pages at least, all of them free: the one kept, or a new one.

        Raises:
            InvalidInput: memory does not suffice.
        """
        with self._lock:
            runner, self._runner = self._runner, None
            key = self._key
        if runner is not None and key == key_of(network) and runner.cache.pool.count >= pages:
            runner.network = network
            return runner
        del runner  # its pages are given back before others are asked for
        return Runner(network, rounded(pages))

    def give(self, runner: Runner) -> None:
        """Keep a runner for the next call, unless it is very large or somebody still has pages."""
        pool, device, key = runner.cache.pool, runner.network.device, key_of(runner.network)
        if pool.num_free == pool.count and MAX_SHARE * runner.cache.num_bytes <= kind_of(device).total_memory(device):
            del runner.network  # which has this one: without a circle it is freed with its last user
            with self._lock:
                self._runner, self._key = runner, key

    def __deepcopy__(self, memo: dict[int, Any]) -> "IdleRunner":
        return IdleRunner()

    def __reduce__(self) -> tuple[type["IdleRunner"], tuple[()]]:
        return IdleRunner, ()


def rounded(pages: int) -> int:
    """Return a number of pages that somewhat longer texts fit in too, at most an eighth more.

    >>> [rounded(pages) for pages in (1, 13, 32, 33, 1000)]
    [1, 13, 32, 36, 1024]
    """
    step = max(1, 1 << (pages - 1).bit_length() >> 4)
    return -(-pages // step) * step


def key_of(network: "Network") -> tuple[object, ...]:
    """Return what pages and captured steps depend on: dtypes, where the weights lie, and which kernels are chosen."""
    return network.dtype, network.cache_dtype, revision(), *(parameter.data_ptr() for parameter in network.parameters())
