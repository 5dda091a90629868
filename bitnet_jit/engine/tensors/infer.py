"""`infer`, `infer_batch`, `infer_each`: tensors through any module, on the device where it is.

Rows are joined only where that pays: a layer on a CPU gains nothing by more than a dozen rows, and copies cost a tenth
of its time. So inputs of an eighth of the rows at which a device runs best (`DeviceKind.prompt_tokens`) are called as
they are.
"""

from collections import deque
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from bitnet_jit.arguments import show, whole_number
from bitnet_jit.devices.huge_pages import CPU
from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.engine.memory.buffers import InferenceBuffers
from bitnet_jit.engine.memory.engine_memory import DEFAULT_MEMORY, EngineMemory
from bitnet_jit.engine.tensors.rows import Piece, Rows
from bitnet_jit.errors import InvalidInput, OutOfMemory

MAX_ROW_DIMS = 8
ALONE = 8  # measured on a 768 x 768 layer on a CPU: 8 rows are 1.1x faster joined, 16 rows 1.03x slower
AHEAD = 1  # batches whose outputs may be on their way while the next one is launched
NO_DEVICE = "meta"  # of weights that hold no values yet: a packed layer takes its device from its first input


def infer(module: nn.Module, x: torch.Tensor, *, memory: EngineMemory = DEFAULT_MEMORY) -> torch.Tensor:
    """Return what a module makes of a tensor, without gradients.

    Args:
        module: any module that takes one tensor and returns one; on one device.
        x: moved to the module's device where it is on another one.
        memory: through which it is moved.

    Returns:
        The output, on the device of x unless the memory's strategy says otherwise; an inference tensor, of which
        autograd keeps nothing.

    Raises:
        InvalidInput: the module is none, returns no tensor, or drops out in training mode; x is no tensor, or the
            module refuses it.
        OutOfMemory: the device has too little memory for x.

    >>> from bitnet_jit import PackedBitLinear
    >>> layer = PackedBitLinear.from_codes(torch.tensor([[1, -1], [0, 1]], dtype=torch.int8), torch.tensor(0.5))
    >>> infer(layer, torch.tensor([1.0, -1.0])).tolist()
    [1.0, -0.5]
    """
    check_module(module)
    if not isinstance(x, torch.Tensor):
        raise InvalidInput(f"x: expected a tensor, got {show(x)}")
    with torch.inference_mode():
        try:
            return forward(module, x, device_of(module), memory)
        except (RuntimeError, MemoryError) as error:
            check_memory(error, f"x: shape {tuple(x.shape)}")
            raise


def infer_batch(
    module: nn.Module, xs: Sequence[torch.Tensor], *, row_dims: int = 1, memory: EngineMemory = DEFAULT_MEMORY
) -> list[torch.Tensor]:
    """Return what a module makes of each tensor; small ones share a call.

    Args:
        module: as in `infer`; it must treat every row by itself, as linear layers and norms do.
        xs: tensors (..., *row) with any dimensions before the row, alike in row, dtype and device.
        row_dims: dimensions of a row: 1 for features (K,), 2 for sequences, 3 for images. The module gets
            (rows, *row).
        memory: in which rows are joined, and through which they and outputs are moved.

    Returns:
        An output (..., *row of the output) for each, in order. Outputs of tensors that shared a call share memory.

    Raises:
        InvalidInput: as `infer`; an input is unlike the first one, or the module returns another number of rows.
        OutOfMemory: the device has too little memory; `BatchProcessor` finds how many rows fit.

    >>> [tuple(y.shape) for y in infer_batch(nn.Linear(8, 3), [torch.ones(5, 8), torch.ones(8), torch.ones(2, 4, 8)])]
    [(5, 3), (3,), (2, 4, 3)]
    """
    check_module(module)
    rows = Rows(xs, whole_number("row_dims", row_dims, 1, MAX_ROW_DIMS))
    with torch.inference_mode():
        forward_batches(module, rows, memory)
    return rows.outputs()


def infer_each(
    module: nn.Module, xs: Sequence[torch.Tensor], *, row_dims: int = 1, memory: EngineMemory = DEFAULT_MEMORY
) -> list[torch.Tensor | Exception]:
    """Return what a module makes of each tensor, or the error that it meets; errors stay with their tensors.

    Tensors may be unlike one another; those that are alike share calls. Where a shared call fails, its halves are tried
    by themselves.

    Args:
        module, row_dims, memory: as in `infer_batch`.
        xs: tensors; anything else becomes an InvalidInput.

    >>> good, bad = infer_each(nn.Linear(8, 3), [torch.ones(8), torch.ones(7)])
    >>> tuple(good.shape), type(bad).__name__
    ((3,), 'RuntimeError')
    """
    check_module(module)
    results: dict[int, torch.Tensor | Exception] = {}
    for places in alike(xs, row_dims).values():
        outputs = infer_halves(module, [xs[place] for place in places], row_dims, memory)
        results.update(zip(places, outputs, strict=True))
    return [results[place] for place in range(len(xs))]


def infer_halves(
    module: nn.Module, xs: list[torch.Tensor], row_dims: int, memory: EngineMemory
) -> list[torch.Tensor | Exception]:
    """Return what a module makes of tensors that are alike, or their errors; a failed call is halved."""
    try:
        return list(infer_batch(module, xs, row_dims=row_dims, memory=memory))
    except Exception as error:  # whatever a module raises belongs to one of its inputs
        if len(xs) == 1:
            return [error]
    half = len(xs) // 2
    return infer_halves(module, xs[:half], row_dims, memory) + infer_halves(module, xs[half:], row_dims, memory)


def alike(xs: Sequence[torch.Tensor], row_dims: int) -> dict[object, list[int]]:
    """Return the places of tensors that can share a call, per kind of row; what is no tensor is a kind by itself."""
    kinds: dict[object, list[int]] = {}
    for place, x in enumerate(xs):
        kind = (x.shape[max(0, x.dim() - row_dims) :], x.dtype, x.device) if isinstance(x, torch.Tensor) else place
        kinds.setdefault(kind, []).append(place)
    return kinds


def forward(
    module: nn.Module, x: torch.Tensor, place: torch.device | None, memory: EngineMemory = DEFAULT_MEMORY
) -> torch.Tensor:
    """Call a module on its device, and return its output where the memory's strategy has it stay."""
    if (place is None or x.device == place) and not memory.moves_results:
        y = module(x)
        if isinstance(y, torch.Tensor):
            return y
        raise no_tensor(module, y)
    buffers = memory.prepare([x], place)
    y = module(buffers.input)
    if not isinstance(y, torch.Tensor):
        raise no_tensor(module, y)
    memory.begin_fetch(buffers, y, place)
    return memory.finish(buffers)


def forward_batches(module: nn.Module, rows: Rows, memory: EngineMemory) -> None:
    """Call a module on all rows, batch after batch; the output of one may be on its way while the next one runs."""
    place = device_of(module)
    size = kind_of(place or CPU).prompt_tokens
    stays = not memory.moves_results and (place is None or rows.device in (place, None))
    flights: deque[tuple[list[Piece], InferenceBuffers]] = deque()
    while pieces := rows.take(size, alone=size // ALONE):
        try:
            if stays and len(pieces) == 1:  # nothing to join or to move: 2 us less
                rows.put(pieces, checked(module, module(rows.parts(pieces)[0]), rows.taken))
                continue
            flights.append((pieces, forward_rows(module, rows, pieces, place, memory)))
            if len(flights) > AHEAD:
                land(flights, rows, memory)
        except (RuntimeError, MemoryError) as error:
            check_memory(error, f"xs: {rows.taken} rows in one call")
            raise
    while flights:
        land(flights, rows, memory)


def forward_rows(
    module: nn.Module, rows: Rows, pieces: list[Piece], place: torch.device | None, memory: EngineMemory
) -> InferenceBuffers:
    """Call a module on the rows taken last, and check that it returns as many; its output may be on its way."""
    buffers = memory.prepare(rows.parts(pieces), place, rows.taken)
    memory.begin_fetch(buffers, checked(module, module(buffers.input), rows.taken), place)
    return buffers


def checked(module: nn.Module, y: object, number: int) -> torch.Tensor:
    """Return a module's output; InvalidInput where it is none of so many rows."""
    if not isinstance(y, torch.Tensor):
        raise no_tensor(module, y)
    shape = y.shape
    if not shape or shape[0] != number:
        name = type(module).__name__
        raise InvalidInput(f"module: {name} made shape {tuple(shape)} of {number} rows; expected as many rows")
    return y


def land(flights: deque[tuple[list[Piece], InferenceBuffers]], rows: Rows, memory: EngineMemory) -> None:
    """Wait for the output of the oldest batch, and keep it."""
    pieces, buffers = flights.popleft()
    rows.put(pieces, memory.finish(buffers))


def no_tensor(module: nn.Module, y: object) -> InvalidInput:
    """Return the error of a module that returns something else than a tensor."""
    return InvalidInput(f"module: expected one that returns a tensor, {type(module).__name__} returned {show(y)}")


def check_module(module: nn.Module) -> None:
    """Raise InvalidInput for what is no module, and for one that would treat rows at random or mix them."""
    if not isinstance(module, nn.Module):
        raise InvalidInput(f"module: expected a torch.nn.Module, got {show(module)}")
    if not module.training:
        return
    for name, part in module.named_modules():
        if part.training and isinstance(part, _DropoutNd | _BatchNorm):
            what = f"{name or 'itself'} ({type(part).__name__})"
            raise InvalidInput(f"module: is in training mode, in which {what} mixes rows; call module.eval()")


def device_of(module: nn.Module) -> torch.device | None:
    """Return the device of a module's first parameter or buffer; None where it has none with values.

    >>> device_of(nn.Sequential(nn.ReLU(), nn.Linear(2, 2))), device_of(nn.ReLU())
    (device(type='cpu'), None)
    """
    pending = [module]  # module.parameters() takes microseconds: it names each of them
    while pending:
        part = pending.pop()
        for tensors in (part._parameters, part._buffers):
            for tensor in tensors.values():
                if tensor is not None:
                    return None if tensor.device.type == NO_DEVICE else tensor.device
        pending += [child for child in reversed(part._modules.values()) if child is not None]
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory was short: torch's of a GPU or a CPU, Python's, or ours."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def check_memory(error: Exception, what: str) -> None:
    """Raise OutOfMemory for torch's and Python's refusals to allocate; ours and other errors are left as they are."""
    if is_out_of_memory(error) and not isinstance(error, OutOfMemory):
        raise OutOfMemory(f"{what}: the device has too little memory; pass fewer rows at a time ({error})") from error
