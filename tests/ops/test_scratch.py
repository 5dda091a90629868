"""What lives in a thread's scratch memory is nobody else's, and no result lies there."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

import bitnet_jit
from bitnet_jit.ops.scratch import MIN_BYTES, scratch


def test_a_thread_has_the_memory_until_it_asks_again():
    first = scratch((1000, 700), torch.bfloat16).fill_(1)
    assert (first.shape, first.dtype) == ((1000, 700), torch.bfloat16)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: scratch((1000, 700), torch.bfloat16).fill_(2)).result()
    assert (first == 1).all()
    assert scratch((MIN_BYTES,), torch.uint8).data_ptr() == first.data_ptr()
    assert scratch((5, 7), torch.float32).data_ptr() != first.data_ptr()


def gradients(layer, x, dy):
    """dX and dW, on leaves of their own."""
    weight, x = layer.weight.detach().clone().requires_grad_(), x.clone().requires_grad_()
    y = torch.func.functional_call(layer, {"weight": weight}, (x,))
    return torch.autograd.grad(y, (x, weight), dy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_outlive_the_next_backward_passes_in_all_threads(dtype):
    torch.manual_seed(0)
    layer, threads, together = bitnet_jit.BitLinear(1000, 700, bias=False), 4, Barrier(4)
    work = [(torch.randn(7, 1000, dtype=dtype), torch.randn(7, 700, dtype=dtype)) for _ in range(threads)]
    alone = [[g.clone() for g in gradients(layer, *one)] for one in work]

    def train(index):
        together.wait(timeout=30)
        return [gradients(layer, *work[index]) for _ in range(20)]

    with ThreadPoolExecutor(threads) as pool:
        for expected, result in zip(alone, pool.map(train, range(threads)), strict=True):
            for dx, dw in result:
                torch.testing.assert_close((dx, dw), tuple(expected), rtol=0, atol=0)


def test_a_gradient_of_another_dtype_may_be_asked_for_where_gradients_are_recorded():
    dy = torch.randn(3, 4, dtype=torch.bfloat16, requires_grad=True)
    x = torch.randn(3, 5, dtype=torch.bfloat16)
    dw = torch.ops.bitnet_jit.bit_linear_train_weight_grad(dy, x, torch.float32)
    torch.testing.assert_close(dw, (dy.T @ x).float().detach(), rtol=0.01, atol=0.01)
