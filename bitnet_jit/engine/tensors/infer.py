"""`infer`, `infer_batch`, `infer_each`: tensors through any module, on the device where it is.

Rows are joined only where that pays: a layer on a CPU gains nothing by more than a dozen rows, and copies cost a tenth
of its time. So inputs of an eighth of the rows at which a device runs best (`DeviceKind.prompt_tokens`) are called as
they are.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from bitnet_jit.arguments import show, whole_number
from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.engine.tensors.rows import Rows
from bitnet_jit.errors import InvalidInput, OutOfMemory

MAX_ROW_DIMS = 8
ALONE = 8  # measured on a 768 x 768 layer on a CPU: 8 rows are 1.1x faster joined, 16 rows 1.03x slower
NO_DEVICE = "meta"  # of weights that hold no values yet: a packed layer takes its device from its first input


def infer(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return what a module makes of a tensor, without gradients.

    Args:
        module: any module that takes one tensor and returns one; on one device.
        x: moved to the module's device where it is on another one.

    Returns:
        The output, on the device of x; an inference tensor, of which autograd keeps nothing.

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
            return forward(module, x, device_of(module))
        except (RuntimeError, MemoryError) as error:
            check_memory(error, f"x: shape {tuple(x.shape)}")
            raise


def infer_batch(module: nn.Module, xs: Sequence[torch.Tensor], *, row_dims: int = 1) -> list[torch.Tensor]:
    """Return what a module makes of each tensor; small ones share a call.

    Args:
        module: as in `infer`; it must treat every row by itself, as linear layers and norms do.
        xs: tensors (..., *row) with any dimensions before the row, alike in row, dtype and device.
        row_dims: dimensions of a row: 1 for features (K,), 2 for sequences, 3 for images. The module gets
            (rows, *row).

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
    place = device_of(module)
    size = kind_of(place or torch.device("cpu")).prompt_tokens
    with torch.inference_mode():
        while pieces := rows.take(size, alone=size // ALONE):
            x = rows.join(pieces)
            try:
                rows.put(pieces, forward_rows(module, x, place))
            except (RuntimeError, MemoryError) as error:
                check_memory(error, f"xs: {len(x)} rows in one call")
                raise
    return rows.outputs()


def infer_each(module: nn.Module, xs: Sequence[torch.Tensor], *, row_dims: int = 1) -> list[torch.Tensor | Exception]:
    """Return what a module makes of each tensor, or the error that it meets; errors stay with their tensors.

    Tensors may be unlike one another; those that are alike share calls. Where a shared call fails, its halves are tried
    by themselves.

    Args:
        module, row_dims: as in `infer_batch`.
        xs: tensors; anything else becomes an InvalidInput.

    >>> good, bad = infer_each(nn.Linear(8, 3), [torch.ones(8), torch.ones(7)])
    >>> tuple(good.shape), type(bad).__name__
    ((3,), 'RuntimeError')
    """
    check_module(module)
    results: dict[int, torch.Tensor | Exception] = {}
    for places in alike(xs, row_dims).values():
        outputs = infer_halves(module, [xs[place] for place in places], row_dims)
        results.update(zip(places, outputs, strict=True))
    return [results[place] for place in range(len(xs))]


def infer_halves(module: nn.Module, xs: list[torch.Tensor], row_dims: int) -> list[torch.Tensor | Exception]:
    """Return what a module makes of tensors that are alike, or their errors; a failed call is halved."""
    try:
        return list(infer_batch(module, xs, row_dims=row_dims))
    except Exception as error:  # whatever a module raises belongs to one of its inputs
        if len(xs) == 1:
            return [error]
    half = len(xs) // 2
    return infer_halves(module, xs[:half], row_dims) + infer_halves(module, xs[half:], row_dims)


def alike(xs: Sequence[torch.Tensor], row_dims: int) -> dict[object, list[int]]:
    """Return the places of tensors that can share a call, per kind of row; what is no tensor is a kind by itself."""
    kinds: dict[object, list[int]] = {}
    for place, x in enumerate(xs):
        kind = (x.shape[max(0, x.dim() - row_dims) :], x.dtype, x.device) if isinstance(x, torch.Tensor) else place
        kinds.setdefault(kind, []).append(place)
    return kinds


def forward(module: nn.Module, x: torch.Tensor, place: torch.device | None) -> torch.Tensor:
    """Call a module on its device, and return its output on the device of x."""
    if place is None or x.device == place:
        y = module(x)
        if isinstance(y, torch.Tensor):
            return y
    else:
        y = module(x.to(place))
        if isinstance(y, torch.Tensor):
            return y.to(x.device)
    raise InvalidInput(f"module: expected one that returns a tensor, {type(module).__name__} returned {show(y)}")


def forward_rows(module: nn.Module, x: torch.Tensor, place: torch.device | None) -> torch.Tensor:
    """Call a module on rows as `forward` does, and check that it returns as many."""
    y = forward(module, x, place)
    shape = y.shape
    if not shape or shape[0] != x.shape[0]:
        name = type(module).__name__
        raise InvalidInput(f"module: {name} made shape {tuple(shape)} of {len(x)} rows; expected as many rows")
    return y


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
