"""`ModelStore`: the models of an engine by name. Those that were loaded make room for others, the longest unused first.

A model in use is never let go: every call and every request holds it by a count. Nor is one that is pinned.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import count
from threading import RLock

from bitnet_jit.arguments import show
from bitnet_jit.engine.models.held import Held
from bitnet_jit.engine.models.source import Source
from bitnet_jit.engine.models.usage import CacheStats
from bitnet_jit.errors import EngineClosed, InvalidInput, ModelNotFound, OutOfMemory
from bitnet_jit.system.memory import give_back, in_words

MAX_REMEMBERED = 1000  # names of models that were let go, for errors


class ModelStore:
    """Models by name, for any number of threads.

    Args:
        max_models: models that are kept beside pinned ones; None: any number.
        max_bytes: of their weights together; None: any number.
    """

    def __init__(self, max_models: int | None = None, max_bytes: int | None = None) -> None:
        self._max_models, self._max_bytes = max_models, max_bytes
        self._lock = RLock()  # a collector of garbage may close the store in a thread that is in it
        self._held: dict[str, Held] = {}
        self._clock = count(1)
        self._coming: dict[str, int | None] = {}  # names that are being made -> bytes; None: pinned
        self._loads: dict[tuple[Source, str], Future[Held]] = {}
        self._let_go: dict[str, None] = {}
        self._hits = self._misses = self._evictions = 0
        self._is_closed = False

    @property
    def held(self) -> dict[str, Held]:
        """Return what is held, by name."""
        with self._lock:
            return dict(self._held)

    def get(self, model_id: str) -> Held:
        """Return a model that is used from now on. Raises ModelNotFound."""
        with self._lock:
            held = self._held.get(model_id) if isinstance(model_id, str) else None
            if held is None:
                raise self._unknown(model_id)
            held.last_use = next(self._clock)
            return held

    def begin(self, model: str | Held) -> Held:
        """Return a model that is not let go before `end` is called as often. Raises ModelNotFound, as `using`."""
        with self._lock:
            held = model if isinstance(model, Held) else self.get(model)
            held.uses += 1
            return held

    def end(self, held: Held) -> None:
        """Tell that a use has ended."""
        with self._lock:
            held.uses -= 1

    @contextmanager
    def using(self, model: str | Held) -> Iterator[Held]:
        """Hold a model within a block. Raises ModelNotFound for a name that is not held."""
        held = self.begin(model)
        try:
            yield held
        finally:
            self.end(held)

    @contextmanager
    def starting(self, model_id: str) -> Iterator[Held]:
        """Hold a model for a use that begins within a block, and ends elsewhere unless the block fails."""
        held = self.begin(model_id)
        try:
            yield held
        except BaseException:
            self.end(held)
            raise

    def find(self, source: Source, model_id: str | None = None) -> Held | None:
        """Return the model that was loaded from a source, of that name if one is given; None where there is none."""
        with self._lock:
            for name, held in self._held.items():
                if held.source == source and model_id in (None, name):
                    return self.get(name)
        return None

    def load(self, source: Source, model_id: str | None, make: Callable[[str], Held]) -> Held:
        """Return the model of a source: the one that is held, the one that another thread is loading, or a new one.

        Args:
            source: where it comes from.
            model_id: its name; None: that of a model from there, or the source's name.
            make: name -> the model, put into this store; called by one thread only.
        """
        with self._lock:
            held = self.find(source, model_id)
            key = source, source.name if model_id is None else model_id
            loading = self._loads.get(key)
            self._hits += held is not None or loading is not None
            if held is not None:
                return held
            if loading is None:
                self._misses += 1
                mine: Future[Held] = Future()
                self._loads[key] = mine
        if loading is not None:
            return loading.result()
        try:
            held = make(key[1])
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            mine.set_result(held)
            return held
        finally:
            with self._lock:
                del self._loads[key]

    def put(self, model_id: str, make: Callable[[], Held], num_bytes: int | None = None) -> Held:
        """Make a model and hold it.

        Args:
            model_id: its name.
            make: called once there is room.
            num_bytes: that its weights will take, as far as that is known before; None: it is pinned.

        Raises:
            InvalidInput: the name is taken.
            EngineClosed: the store is closed.
            OutOfMemory: other models would have to go, and are in use.
        """
        with self._lock:
            self._check_new(model_id)
            too_large = num_bytes is not None and not self._fits(1, num_bytes)  # or so it seems: nobody goes for it yet
            self._coming[model_id] = 0 if too_large else num_bytes
            try:
                victims = [] if too_large else self._make_room()
            except OutOfMemory:
                del self._coming[model_id]
                raise
        try:
            free(victims)
            held = make()
            victims = self._keep(model_id, held)
        finally:
            with self._lock:
                self._coming.pop(model_id, None)
        free(victims)
        return held

    def _keep(self, model_id: str, held: Held) -> list[Held]:
        """Hold a model that was made; return those that must go for it. It is closed where it cannot stay."""
        with self._lock:
            try:
                if self._is_closed:
                    raise EngineClosed("the engine takes no more models: it is closed")
                self._coming[model_id] = None if held.is_pinned else held.num_bytes
                victims = self._make_room()
            except (EngineClosed, OutOfMemory):
                held.close(abandon=True)
                raise
            self._let_go.pop(model_id, None)
            held.last_use = next(self._clock)
            self._held[model_id] = held
            return victims

    def remove(self, model_id: str, abandon: bool = False) -> None:
        """Let a model go, pinned or not, after its requests or without them. Raises ModelNotFound."""
        with self._lock:
            if model_id not in self._held:
                raise self._unknown(model_id)
            held = self._forget(model_id)
        free([held], abandon)

    def clear(self) -> int:
        """Let all models go that are neither pinned nor in use; return their number."""
        with self._lock:
            idle = [name for name, held in self._held.items() if not held.is_pinned and not held.uses]
            victims = [self._forget(name) for name in idle]
        free(victims)
        return len(idle)

    def close(self, abandon: bool = False) -> None:
        """Take no more models, end the requests of those that are held, and forget them."""
        with self._lock:
            self._is_closed = True
            closing = [*self._held.values()]
        for held in closing:
            held.close(abandon)
        with self._lock:
            self._held.clear()

    def stats(self) -> CacheStats:
        """Return what is kept beside pinned models, and how often it was there."""
        with self._lock:
            sizes = [held.num_bytes for held in self._held.values() if not held.is_pinned]
            counts = self._hits, self._misses, self._evictions
            pinned = len(self._held) - len(sizes)
            return CacheStats(*counts, len(sizes), sum(sizes), pinned, self._max_models, self._max_bytes)

    def _check_new(self, model_id: str) -> None:
        """Raise an error unless a model of that name can be taken in."""
        check_name(model_id)
        if self._is_closed:
            raise EngineClosed("the engine takes no more models: it is closed")
        if model_id in self._held or model_id in self._coming:
            raise InvalidInput(f"model_id: expected a new name, got {model_id!r}, which is taken")

    def _make_room(self) -> list[Held]:
        """Forget models until there is room for those that come, and return them; none where that does not suffice."""
        kept = [held for held in self._held.values() if not held.is_pinned]
        coming = [num_bytes for num_bytes in self._coming.values() if num_bytes is not None]
        number, total = len(kept) + len(coming), sum(held.num_bytes for held in kept) + sum(coming)
        names = []
        for held in sorted(kept, key=lambda held: held.last_use):
            if self._fits(number, total) or not coming:
                break
            if not held.uses:
                names.append(held.model.model_id)
                number, total = number - 1, total - held.num_bytes
        if coming and not self._fits(number, total):
            raise OutOfMemory(
                f"models: {number} of {in_words(total)} would be kept, more than max_cached_models "
                f"({self._max_models}) or max_cached_bytes ({self._max_bytes}) allows, and none that is idle can go; "
                "wait until requests have ended, or raise the limit"
            )
        self._evictions += len(names)
        return [self._forget(name) for name in names]

    def _fits(self, number: int, total: int) -> bool:
        """Return whether so many models and bytes may be kept."""
        return (self._max_models is None or number <= self._max_models) and (
            self._max_bytes is None or total <= self._max_bytes
        )

    def _forget(self, model_id: str) -> Held:
        """Take a model out, and remember that it was there."""
        self._let_go[model_id] = None
        while len(self._let_go) > MAX_REMEMBERED:
            del self._let_go[next(iter(self._let_go))]
        return self._held.pop(model_id)

    def _unknown(self, model_id: object) -> ModelNotFound:
        """Return the error for a name that is not held."""
        if isinstance(model_id, str) and model_id in self._let_go:
            return ModelNotFound(f"model_id: {model_id!r} was let go, for others or by its user; load it again")
        return ModelNotFound(f"model_id: expected one of {', '.join(self._held) or 'none'}, got {show(model_id)}")


def check_name(model_id: object) -> None:
    """Raise InvalidInput for what is no name."""
    if not isinstance(model_id, str) or not model_id:
        raise InvalidInput(f"model_id: expected a name, got {show(model_id)}")


def free(victims: list[Held], abandon: bool = False) -> None:
    """End the workers of models that were let go, and give their memory back where nobody else holds them."""
    if not victims:
        return
    while victims:
        victims.pop().close(abandon)
    give_back()
