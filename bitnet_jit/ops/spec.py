"""What an op is, in one record: its schema, how its calls are checked, what they pose, give and cost.

All else reads the record: torch's schema and the fake implementation, the key of kept calls, the operands that kernels
are handed, synthetic inputs, bytes and operations, and whether kernels have to agree to the bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bitnet_jit.devices.kinds import find_gpu, fingerprint
from bitnet_jit.dtypes import dtype_name
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.operands import Operand, Operands
from bitnet_jit.ops.arguments import Argument, Epsilon, Tensor
from bitnet_jit.ops.shapes import Seen, Shape
from bitnet_jit.problem import MAX_IN_FEATURES, SCALES, Problem, rows_bucket


@dataclass(frozen=True)
class Output:
    """A tensor that an op gives back.

    Attributes:
        name: as kernels know it.
        shape: of sizes that the arguments set.
        dtype: a fixed one, or the name of the argument that has or is its dtype.
    """

    name: str
    shape: Shape
    dtype: torch.dtype | str

    def dtype_of(self, seen: Seen) -> torch.dtype:
        """Return its dtype in a call whose arguments have been checked."""
        if isinstance(self.dtype, torch.dtype):
            return self.dtype
        value = seen.values[self.dtype]
        dtype: torch.dtype = value if isinstance(value, torch.dtype) else value.dtype
        return dtype


def always(problem: Problem) -> bool:
    """Return True: all kernels of the op agree to the bit."""
    return True


def never(problem: Problem) -> bool:
    """Return False: sums of floats may be taken in any order."""
    return False


def no_sizes(problem: Problem) -> dict[str, int]:
    """Return no sizes: the problem tells all."""
    return {}


def no_operations(problem: Problem) -> int:
    """Return 0: the op is bound by its bytes."""
    return 0


@dataclass(frozen=True)
class OpSpec:
    """What an op is.

    Attributes:
        name: as under `torch.ops.bitnet_jit`.
        arguments: in the order of its schema; the first one is a tensor, on whose device the others have to be.
        outputs: what it gives back, in order.
        leads: the tensor that sets the sizes of the others, where that is not the first one.
        activation: of its problems, where no argument says it.
        scale: of its problems, where no argument says it.
        exact: problem -> whether all kernels agree to the bit.
        operations: problem -> operations of a call, a multiply-add counted as two.
        varying: sizes that a kept call does not fix, `...` among them: a call serves all of them in a bucket of rows.
        examples: problem -> the sizes that it does not tell, in calls that are timed or compared.
    """

    name: str
    arguments: tuple[Argument, ...]
    outputs: tuple[Output, ...]
    leads: str = ""
    activation: str = ""
    scale: str = ""
    exact: Callable[[Problem], bool] = never
    operations: Callable[[Problem], int] = no_operations
    varying: tuple[Any, ...] = ()
    examples: Callable[[Problem], dict[str, int]] = no_sizes

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors among the arguments."""
        return tuple(argument for argument in self.arguments if isinstance(argument, Tensor))

    @property
    def written(self) -> tuple[Tensor, ...]:
        """Return the tensors that the op writes into."""
        return tuple(tensor for tensor in self.tensors if tensor.written)

    @property
    def operands(self) -> tuple[str, ...]:
        """Return the names of the arguments that kernels are handed: the tensors and the epsilon, in order."""
        return tuple(argument.name for argument in self.arguments if isinstance(argument, Tensor | Epsilon))

    @property
    def schema(self) -> str:
        """Return the schema as `torch.library` writes it.

        >>> from bitnet_jit.ops.norm import RMS_NORM
        >>> RMS_NORM.spec.schema
        'rms_norm(Tensor x, Tensor weight, float eps) -> Tensor'
        """
        defaults = {argument.name: getattr(argument, "default", None) for argument in self.arguments}
        words = [
            f"{argument.schema_type} {argument.name}"
            + ("" if defaults[argument.name] is None else f"={defaults[argument.name]}")
            for argument in self.arguments
        ]
        results = ", ".join("Tensor" for _ in self.outputs)
        return f"{self.name}({', '.join(words)}) -> {f'({results})' if len(self.outputs) > 1 else results}"

    def check(self, values: Sequence[Any]) -> Seen:
        """Check the arguments of a call, before anything is computed.

        Args:
            values: in the order of the schema; last ones that have a default may be missing.

        Returns:
            The arguments by name, and the sizes that they set.

        Raises:
            InvalidInput: one is not what the op takes, or does not fit the others.

        >>> from bitnet_jit.ops.norm import RMS_NORM
        >>> RMS_NORM.spec.check((torch.ones(3, 64), torch.ones(32), 1e-5))
        Traceback (most recent call last):
        ...
        bitnet_jit.errors.InvalidInput: weight: expected float32, bfloat16, float16 (64,), got torch.float32 (32,)
        """
        seen = Seen(dict(zip((argument.name for argument in self.arguments), values, strict=False)))
        for tensor in self.tensors:
            tensor.check_kind(seen.values[tensor.name])
        for argument in sorted(self.arguments, key=self._turn):
            if argument.name in seen.values:
                argument.check(seen.values[argument.name], seen)
        return seen

    def _turn(self, argument: Argument) -> int:
        """Return when an argument is checked: options first, then the tensor that leads, then other tensors."""
        return isinstance(argument, Tensor) + (isinstance(argument, Tensor) and argument.name != self.leads)

    def fake(self, values: Sequence[Any]) -> Any:
        """Return the outputs of a call without their values, after a check of its arguments."""
        seen = self.check(values)
        outputs = [
            values[0].new_empty(output.shape.sizes(seen), dtype=output.dtype_of(seen)) for output in self.outputs
        ]
        return tuple(outputs) if len(outputs) > 1 else outputs[0]

    def problem(self, seen: Seen) -> Problem:
        """Return the problem that a call poses, whose arguments have been checked."""
        values, first = seen.values, seen.values[self.arguments[0].name]
        leading = seen.sizes.get(..., first.shape[:-1])
        w_scale, by_field = values.get("w_scale"), {tensor.field: values[tensor.name] for tensor in self.tensors}
        bias, cache, weight = (by_field.get(field) for field in ("bias", "cache_dtype", "w_dtype"))
        return Problem(
            op=self.name,
            device_type=first.device.type,
            rows=rows_bucket(leading.numel()),
            out_features=int(seen.sizes["N" if "N" in seen.sizes else "K"]),
            in_features=int(seen.sizes["K" if "K" in seen.sizes else "N"]),
            layout=values.get("layout", ""),
            activation=values.get("activation", self.activation),
            x_dtype=dtype_name(first.dtype),
            y_dtype=dtype_name(self.outputs[0].dtype_of(seen)),
            scale=self.scale if w_scale is None else SCALES[w_scale.dim()],
            group_size=min(values.get("group_size", 0), MAX_IN_FEATURES),  # no input is outside of such a group
            bias="" if bias is None else dtype_name(bias.dtype),
            heads=int(seen.sizes.get("H", 0)),
            kv_heads=int(seen.sizes.get("KV", 0)),
            head_dim=int(seen.sizes.get("D", 0)),
            cache_dtype="" if cache is None else dtype_name(cache.dtype),
            device=fingerprint(first.device),
            gpu=find_gpu(first.device),
            w_dtype="" if weight is None else dtype_name(weight.dtype),
            block=int(values.get("block", 0)),
        )

    def operands_of(self, problem: Problem, leading: Sequence[int]) -> Operands:
        """Return the operands of a call that poses a problem, with its leading dimensions (none for a weight)."""
        seen = Seen(
            {"group_size": problem.group_size, "scale": problem.scale, "block": problem.block},
            {
                **{...: tuple(leading), "K": problem.in_features, "N": problem.out_features},
                **{"H": problem.heads, "KV": problem.kv_heads, "D": problem.head_dim},
                **self.examples(problem),
            },
            registry.get_layout(problem.layout) if problem.layout else None,
        )
        inputs = tuple(
            Operand(
                tensor.name,
                tuple(tensor.shape.sizes(seen)),
                tensor.dtype_in(problem),
                tensor.shape.has_rows,
                bool(tensor.written),
            )
            for tensor in self.tensors
        )
        dtypes = {operand.name: operand.dtype for operand in inputs}
        outputs = tuple(
            Operand(
                output.name,
                tuple(output.shape.sizes(seen)),
                output_dtype(output, dtypes, problem),
                output.shape.has_rows,
            )
            for output in self.outputs
        )
        has_rows = any(operand.has_rows for operand in inputs)
        leading = tuple(leading) if has_rows else ()
        return Operands(problem, self.operands, inputs, outputs, leading, ... in self.varying)


def output_dtype(output: Output, inputs: dict[str, str], problem: Problem) -> str:
    """Return the name of an output's dtype: a fixed one, that of an input, or the one that an option asks for."""
    if isinstance(output.dtype, torch.dtype):
        return dtype_name(output.dtype)
    return inputs.get(output.dtype, problem.y_dtype)
