"""The problems of a model are those that running it asks for, and finding them leaves nothing behind."""

from collections import Counter

import pytest
import torch
from drawn_arguments import right
from torch import nn

import bitnet_jit
from bitnet_jit.checkpoints.embedded import embedded_model
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.network import MAX_TRACED_LOGITS
from bitnet_jit.nn import PackedBitLinear, RMSNorm
from bitnet_jit.ops import calls
from bitnet_jit.ops.op import OPS
from bitnet_jit.problem import Problem
from bitnet_jit.tuning import recording
from bitnet_jit.tuning.problems import check_memory, problems_of_model, problems_of_shapes

TIED = {"tie_word_embeddings": True}
UNTIED = {"tie_word_embeddings": False, "model_type": "llama"}
QWEN3 = {"model_type": "qwen3"}


@pytest.fixture(scope="module")
def decoder():
    return bitnet_jit.load(embedded_model())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head", ["checkpoint", "int8"])
@pytest.mark.parametrize("fields", [TIED, UNTIED, QWEN3], ids=["tied", "untied", "qwen3"])
@pytest.mark.parametrize("rows", [1, 3, 16, MAX_TRACED_LOGITS])
def test_the_problems_of_a_decoder_are_those_that_it_asks_for(write_checkpoint, rows, fields, head, dtype):
    decoder = bitnet_jit.load(write_checkpoint(**fields), dtype=dtype, head=head)
    result = problems_of_model(decoder, [rows])
    calls.forget()
    decoder(torch.zeros(rows, 1, dtype=torch.int64))
    assert set(result) == set(calls.DISPATCHER.problems())
    ops = Counter(problem.op for problem in result.elements())
    assert (ops["quantized_linear"], ops["head_logits"]) == (4 * decoder.config.num_layers, 1)


def test_heads_are_tuned_for_as_many_rows_as_steps_ask_for(decoder):
    result = problems_of_model(decoder, [MAX_TRACED_LOGITS, MAX_TRACED_LOGITS + 1])
    assert [problem.rows for problem in result if problem.op == "head_logits"] == [MAX_TRACED_LOGITS]
    assert max(problem.rows for problem in result) > MAX_TRACED_LOGITS


@pytest.mark.parametrize(("w_dtype", "num_bytes"), [("int8", 1), ("bfloat16", 2), ("float32", 4)])
def test_a_head_counts_in_the_memory_that_is_needed(w_dtype, num_bytes):
    rows = 2**28 // num_bytes
    problem = Problem("head_logits", "cpu", 1, rows, 2**18, w_dtype=w_dtype)  # 64 TiB
    with pytest.raises(InvalidInput, match="head_logits of 1 x 262144 -> .* needs 64.0 TiB"):
        check_memory([problem], torch.device("cpu"))


def test_finding_problems_leaves_the_model_as_it_was(decoder):
    prompt = [list(b"And it came to pass ")]
    fresh = bitnet_jit.load(embedded_model())
    problems_of_model(fresh, [1, 64])
    assert torch.equal(fresh(prompt), decoder(prompt))
    assert fresh.generate(prompt, max_new_tokens=5).tolist() == decoder.generate(prompt, max_new_tokens=5).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_problems_of_any_module_are_those_of_its_layers_and_norms(dtype):
    codes = torch.ones(32, 64, dtype=torch.int8)
    model = nn.Sequential(
        RMSNorm(64).to(dtype),
        PackedBitLinear.from_codes(codes, torch.ones(32), torch.zeros(32, dtype=dtype)),
        PackedBitLinear.from_codes(codes.T, torch.tensor(0.5), activation="a16", format="t5"),
    )
    result = problems_of_model(model, [4])
    calls.forget()
    with torch.no_grad():
        model(torch.randn(4, 64, dtype=dtype))
    assert set(result) == set(calls.DISPATCHER.problems())


def test_the_problem_of_a_shape_is_that_of_a_layer():
    (result,) = problems_of_shapes([(32, 64)], [5], torch.device("cpu"))
    calls.forget()
    PackedBitLinear.from_codes(torch.ones(32, 64, dtype=torch.int8), torch.tensor(0.5))(torch.randn(5, 64))
    assert calls.DISPATCHER.problems() == (result,)


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.by_kernels])
def test_every_op_with_kernels_is_recorded_as_the_problem_that_its_calls_pose(name):
    values = right(name)
    with recording.recorded(torch.device("cpu")) as recorded:
        OPS[name].torch(*(v.to("meta") if isinstance(v, torch.Tensor) else v for v in values.values()))
    calls.forget()
    OPS[name].torch(*values.values())
    assert calls.DISPATCHER.problems() == tuple(recorded)


def test_codes_and_sums_are_recorded_as_they_are_asked_for():
    def run(device):
        w_packed = torch.zeros(8, 16, dtype=torch.uint8, device=device)
        x_q, x_scale = torch.zeros(2, 64, dtype=torch.int8, device=device), torch.ones(2, device=device)
        w_scale, x = torch.ones((), device=device), torch.ones(2, 64, device=device)
        torch.ops.bitnet_jit.ternary_matmul(x_q, w_packed, 64, 8, "i2")
        torch.ops.bitnet_jit.quantized_linear(x_q, x_scale, w_packed, w_scale, None, 64, 8, "i2", 0, torch.float32)
        torch.ops.bitnet_jit.silu_mul_norm_quantize(x, x, None, 0.0)
        torch.ops.bitnet_jit.quantize_activation(x)

    with recording.recorded(torch.device("cpu")) as result:
        run("meta")
    calls.forget()
    run("cpu")
    assert set(result) == set(calls.DISPATCHER.problems())
    run("meta")
    assert sum(result.values()) == 4


def layer_on(device):
    return PackedBitLinear(64, 32, device=device)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Linear(4, 4), "Linear has no packed layer"),
        (nn.Sequential(nn.Linear(4, 4)), "Sequential has no packed layer"),
        (layer_on("meta"), "packed layers are on meta"),
        (nn.Sequential(layer_on("meta"), layer_on("cpu")), "packed layers are on cpu, meta"),
    ],
)
def test_a_model_that_cannot_be_tuned_is_refused_in_words(model, words):
    with pytest.raises(InvalidInput, match=words):
        problems_of_model(model, [1])


@pytest.mark.parametrize("shapes", [[], [(0, 4)], [(4, 0)], [(4, 2**18 + 1)], [(4,)], [(4.0, 4)], [4], "ab", 5, None])
def test_shapes_that_no_layer_has_are_refused_in_words(shapes):
    with pytest.raises(InvalidInput, match="model_or_shapes: expected"):
        problems_of_shapes(shapes, [1], torch.device("cpu"))
