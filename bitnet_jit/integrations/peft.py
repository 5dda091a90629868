"""peft's LoRA on packed layers, through its hook for custom modules.

    config = register(LoraConfig(target_modules=["q_proj", "v_proj"]))
    model = get_peft_model(bitnet_jit.patch(model), config)

The layer is peft's own LoRA of a linear layer. Only the merge differs, for the sum of a ternary weight and an update is
not ternary. It rounds as `bitnet_jit.merge_lora` does, and keeps the old layer, so that unmerging is exact. peft does
not save the hook with a config: `PeftModel.from_pretrained` needs `config=register(...)` again. A registered
config's `target_modules="all-linear"` means packed layers, too (peft_targets.py).
"""

import logging
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn.lora_merge import add_to_codes, product
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rms_norm import norm_inside

if TYPE_CHECKING:
    from peft import LoraConfig

logger = logging.getLogger(__name__)

MIN_VERSION = (0, 20)  # of peft
PLAIN_STARTS = (True, False, "gaussian")  # the others decompose the base's dense weight, of which there is none
LOSSY = "a merged weight is ternary again: updates below half a scale are lost, and outputs change; see merge_lora"


def register(config: "LoraConfig") -> "LoraConfig":
    """Tell a LoraConfig how peft adapts `PackedBitLinear` layers.

    Args:
        config: any; `lora_bias`, variants such as DoRA, and starts that need a dense weight are refused when peft makes
            the layers.

    Returns:
        The config.

    Raises:
        ImportError: peft is too old: its layers are made by other arguments.
        InvalidInput: config is no LoraConfig.
    """
    import peft
    from peft import LoraConfig

    from bitnet_jit.integrations.peft_targets import find_packed_layers

    if tuple(map(int, peft.__version__.split(".")[:2])) < MIN_VERSION:
        raise ImportError(
            f"peft: expected version {'.'.join(map(str, MIN_VERSION))} or newer, found {peft.__version__}"
        )
    if not isinstance(config, LoraConfig):
        raise InvalidInput(f"config: expected a peft.LoraConfig, got {type(config).__name__}")
    config._register_custom_module({PackedBitLinear: layer_class()})
    find_packed_layers()
    return config


class PackedLora:
    """The changes of a packed base to `peft.tuners.lora.Linear`, with which `layer_class` joins it."""

    base_layer: Any
    lora_A: Any
    lora_B: Any
    scaling: dict[str, float]
    merged_adapters: list[str]
    training: bool

    def __init__(self, base_layer: Any, adapter_name: str, config: "LoraConfig", *args: Any, **kwargs: Any) -> None:
        super().__init__(base_layer, adapter_name, config, *args, **kwargs)  # type: ignore[call-arg]
        self._unmerged: PackedBitLinear | None = None  # as a submodule it moves between devices with the others

    def update_layer(self, adapter_name: str, r: int, lora_alpha: int, config: "LoraConfig", **kwargs: Any) -> None:
        """Add an adapter, as peft does; refuse in words options that a packed base cannot have."""
        if config.init_lora_weights not in PLAIN_STARTS:
            raise InvalidInput(f"init_lora_weights: expected one of {PLAIN_STARTS}, got {config.init_lora_weights!r}")
        if norm_inside(self.base_layer) is not None:
            raise InvalidInput(
                "base_layer: has a norm inside, and peft hands its update the input from before the norm; "
                "use bitnet_jit.add_lora"
            )
        if config.lora_bias:
            raise InvalidInput("lora_bias: a packed layer's bias is frozen and cannot be merged into, got True")
        super().update_layer(adapter_name, r, lora_alpha, config, **kwargs)  # type: ignore[misc]

    @property
    def lora_variants(self) -> dict[tuple[str, ...], None]:
        """Return no variant but plain LoRA: the others read a dense weight."""
        return {(): None}

    def _get_in_out_features(self, module: PackedBitLinear) -> tuple[int, int]:
        return module.in_features, module.out_features

    def _get_base_layer_device_and_dtype(self, base_layer: PackedBitLinear) -> tuple[torch.device, None]:
        return base_layer.w_packed.device, None

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:  # noqa: ARG002
        """Merge adapters into the ternary weight; `bitnet_jit.merge_lora` says how much is lost.

        Args:
            safe_merge: makes no difference: factors that are not finite are always refused, and the layer stays.
            adapter_names: of the adapters; None takes the active ones.

        Raises:
            InvalidInput: an adapter's factors are not finite.

        Warns:
            UserWarning: outputs change.
        """
        from peft.tuners.tuners_utils import check_adapters_to_merge

        tuner_layer: Any = self
        new = [name for name in check_adapters_to_merge(tuner_layer, adapter_names) if name in self.lora_A]
        if not new:
            return
        before = self.base_layer if self._unmerged is None else self._unmerged
        # rounded once: several updates may change a code that none of them would alone
        together = [name for name in (*self.merged_adapters, *new) if name in self.lora_A]
        update = torch.stack([self.get_delta_weight(name) for name in together]).sum(0)
        after, done = add_to_codes(" + ".join(together), before, update)
        warnings.warn(LOSSY, stacklevel=2)
        logger.info("merged %s: %d of %d codes changed, %.1f%% lost", *vars(done).values())
        self._unmerged, self.base_layer = before, after.train(self.training)
        self.merged_adapters = together

    def unmerge(self) -> None:
        """Put back the layer from before the merge, exactly."""
        if self._unmerged is None:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        self.base_layer, self._unmerged = self._unmerged, None
        self.merged_adapters = []

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        """Return the update of an adapter, scaling * B @ A: (N, K) float32."""
        return product(adapter, self.lora_A[adapter].weight, self.lora_B[adapter].weight, self.scaling[adapter])


@cache
def layer_class() -> type:
    """Return the class of peft's layers on a packed base, made at the first call, which imports peft."""
    from peft.tuners.lora import Linear

    return type("PackedLoraLinear", (PackedLora, Linear), {"__module__": __name__, "__doc__": PackedLora.__doc__})


def __getattr__(name: str) -> Any:
    if name == "PackedLoraLinear":  # by this name a pickled layer finds its class
        return layer_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
