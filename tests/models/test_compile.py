"""A whole decoder under torch.compile(fullgraph=True): the same logits, any number of tokens, wrong ids refused."""

import pytest
import torch

import bitnet_jit
from bitnet_jit.checkpoints.embedded import embedded_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from imports of torch._dynamo and inductor


@pytest.fixture(autouse=True)
def _forget_compiled_code():
    """Reset dynamo, which counts recompilations of a line of code over the whole process."""
    torch._dynamo.reset()


@torch.inference_mode()
def test_compiled_whole_it_gives_the_same_logits(tiny, kjv):
    compiled = torch.compile(tiny, fullgraph=True, backend="aot_eager")
    for tokens in (30, 31, 7, 1):
        assert torch.equal(compiled(kjv[:2, :tokens]), tiny(kjv[:2, :tokens]))


@torch.inference_mode()
def test_ids_out_of_range_stop_compiled_code(tiny):
    compiled = torch.compile(tiny, fullgraph=True, backend="aot_eager")
    for wrong in (256, -1):
        with pytest.raises(RuntimeError, match="input_ids: expected ids from 0 to 255"):
            compiled(torch.tensor([[1, wrong]]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA or ROCm device here")
@pytest.mark.filterwarnings("ignore:.*TensorFloat32:UserWarning")  # inductor recommends less precision
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning")  # inductor captures nothing, to begin with
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@torch.inference_mode()
def test_on_a_gpu_by_inductor_with_and_without_graphs(mode, kjv):
    decoder, ids = bitnet_jit.load(embedded_model(), device="cuda"), kjv[:2, :64].cuda()
    compiled = torch.compile(decoder, fullgraph=True, mode=mode)
    for _ in range(3):  # the first calls warm up, then a graph is captured
        difference = (compiled(ids) - decoder(ids)).abs()
    assert difference.mean() < 0.1
    assert difference.max() < 0.6
