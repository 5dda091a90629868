"""The benchmark of whole models, from its command line to its files, on models so small that only the fields count."""

import dataclasses
import sys
from contextlib import nullcontext
from importlib.util import find_spec

import numpy as np
import pytest
import torch

import bitnet_jit
from benchmarks.harness.models import picture, start, turns
from benchmarks.harness.models.profile import outside_share
from benchmarks.harness.models.report import read
from benchmarks.harness.models.shapes import SHAPES, llama_config, random_shape
from benchmarks.providers.models import llama_cpp, ours
from benchmarks.providers.models.gguf_blocks import Q2_0
from benchmarks.suites import decode, decode_contenders, decode_memory
from benchmarks.suites.decode_options import parse

SMALL = llama_config(96, 256, 512, 2, 4, 2, 64, 10000.0)
BITNET = dataclasses.replace(SMALL, activation="relu2", sub_norms=True, tied_embeddings=True)
QWEN3 = dataclasses.replace(SMALL, qk_norms=True)
HAS_LLAMA = llama_cpp.unsupported_reason("cpu") is None
IDS = torch.randint(96, (1, 20), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def small_limits(small_limits, monkeypatch):
    """Shrink the buffers of limits, too."""
    monkeypatch.setattr(turns, "LIMIT_BYTES", 1 << 18)


@pytest.mark.usefixtures("small_limits")
def test_a_run_from_its_command_line_to_its_files(tmp_path, capsys):
    files = [tmp_path / "figures.json", tmp_path / "figures.png"]
    arguments = "--shape small --quick --no-memory --threads 1 --turns 2 --steps 2 --batch 1 3 --context 5"
    everyone = ["bitnet_jit", "llama_cpp", "transformers_dense"]
    options = [
        "--prompt-tokens",
        "7",
        "--contenders",
        *everyone,
        "--packing",
        "i2",
        "t5",
        "--json",
        str(files[0]),
        "--picture",
        str(files[1]),
    ]
    returned = decode.run([*arguments.split(), *options])
    assert returned == read(files[0])
    assert files[1].read_bytes().startswith(b"\x89PNG")
    names = {"bitnet_jit", "bitnet_jit_t5", "bound"} | ({"llama_cpp TQ2_0"} if HAS_LLAMA else set())
    cases = {(row.figure, row.context, row.batch) for row in returned.rows}
    assert cases == {("decode", 5, 1), ("decode", 5, 3), ("prefill", 7, 1)}
    assert {(row.contender, row.figure, row.batch) for row in returned.rows} == {
        (name, figure, batch) for name in names for figure, _, batch in cases
    }
    for row in returned.rows:
        tokens = row.batch if row.figure == "decode" else row.context
        assert row.tokens_per_s == pytest.approx(1e3 * tokens / row.ms, rel=0.01, abs=0.01)
        assert row.tokens_per_s >= row.median_tokens_per_s > 0
        assert row.share_of_bound == 1 if row.contender == "bound" else row.share_of_bound >= 0
        profiled = row.figure == "decode" and row.contender.startswith("bitnet_jit")
        assert (row.outside_share is not None) == profiled
    assert returned.peaks == ()
    assert [refusal.provider for refusal in returned.refusals] == everyone[2 - (not HAS_LLAMA) :]
    printed = capsys.readouterr().out
    assert "decode small, head checkpoint, 5 tokens, batch 3, 1 threads" in printed
    assert "transformers_dense at small, head checkpoint: is measured on a GPU only, not on cpu" in printed
    assert f"torch {torch.__version__}" in printed
    assert HAS_LLAMA or "pip install llama-cpp-python gguf" in printed


@pytest.mark.usefixtures("small_limits")
def test_the_model_of_the_package_runs_too():
    arguments = "--shape tiny --quick --threads 1 --turns 1 --steps 1 --context 3 --prompt-tokens 3"
    report = decode.run([*arguments.split(), "--contenders", "bitnet_jit"])
    assert [row.contender for row in report.rows] == ["bitnet_jit", "bound"] * 2
    assert [peak.contender for peak in report.peaks] == ["bitnet_jit"] * (sys.platform == "linux")
    assert all(peak.peak_bytes > peak.resident_bytes > 2**20 for peak in report.peaks)


@pytest.mark.usefixtures("small_limits")
def test_groups_of_scales_have_activations_and_no_t5():
    arguments = "--shape small-qwen3 --quick --no-memory --threads 1 --turns 1 --steps 1 --context 3 --prompt-tokens 3"
    ours = "--contenders bitnet_jit --head int8 --packing i2 t5 --activation a8 a8g a16"
    report = decode.run([*arguments.split(), *ours.split()])
    assert {(row.head, row.contender) for row in report.rows} == {
        ("int8", name) for name in ("bitnet_jit", "bitnet_jit_a8g", "bitnet_jit_a16", "bound")
    }
    assert [(refusal.provider, refusal.reason) for refusal in report.refusals] == [
        (f"bitnet_jit_t5{end}", "t5 has no scales of groups") for end in ("", "_a8g", "_a16")
    ]
    assert report.peaks == ()


def test_activations_by_groups_need_groups():
    with pytest.raises(ValueError, match="a8g needs scales of groups"):
        decode_contenders.CONTENDERS["bitnet_jit_a8g"](SHAPES["small"], "cpu", "checkpoint")


@pytest.mark.parametrize("name", ["bitnet_jit", "bitnet_jit_t5", "bitnet_jit_a16"])
def test_variants_of_ours_hold_the_same_weights(name):
    model = decode_contenders.CONTENDERS[name](SHAPES["small"], "cpu", "checkpoint")()
    expected = ours.build_decoder(SHAPES["small"], "cpu", "checkpoint")(IDS)
    logits = model.decoder(IDS)
    assert model.name == name
    if name == "bitnet_jit_a16":
        assert 0 < (logits - expected).norm() < 0.08 * expected.norm()
    else:
        assert torch.equal(logits, expected)


def test_the_peak_of_a_contender_is_about_what_it_holds():
    peak = decode_memory.measure_alone(SHAPES["tiny"], "int8", "bitnet_jit", 64, 1)
    if peak is None:
        pytest.skip("the system does not tell the peak of resident memory")
    assert 0.9 * peak.resident_bytes < peak.peak_bytes < 60e6
    with pytest.raises(ValueError, match="the process that measures memory failed: .*KeyError: 'nobody'"):
        decode_memory.measure_alone(SHAPES["tiny"], "int8", "nobody", 64, 1)


@pytest.mark.usefixtures("small_limits")
def test_the_weights_are_saved_as_a_checkpoint_that_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "RUNS", 2)
    monkeypatch.setattr(start, "TUNE_SECONDS", 0.1)
    arguments = "--shape small --quick --no-memory --threads 1 --turns 1 --steps 1 --context 3 --prompt-tokens 3"
    report = decode.run(
        [*arguments.split(), "--contenders", "bitnet_jit", "--start", "--save", str(tmp_path / "model")]
    )
    expected = ours.build_decoder(SHAPES["small"], "cpu", "checkpoint")(IDS)
    assert torch.equal(bitnet_jit.load(tmp_path / "model")(IDS), expected)
    (row,) = report.starts
    assert min(row.imports, row.load, row.first_token, row.second_token) > 0


def test_a_start_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="the process that starts failed: .*CheckpointError"):
        start.measure_start(tmp_path / "nothing", "cpu", "checkpoint")


def test_texts_beyond_the_context_are_refused_before_anything_is_built():
    with pytest.raises(ValueError, match=r"do not fit the context of tiny, 1024"):
        decode.run(["--shape", "tiny", "--context", "1024"])


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize(("error", "is_raised"), [(KeyboardInterrupt, False), (RuntimeError, True)])
def test_an_end_before_the_end_loses_no_figures(tmp_path, monkeypatch, error, is_raised):
    def stop(*arguments):
        raise error("in the middle")

    monkeypatch.setattr(decode.Run, "prefill", stop)
    arguments = "--shape small --quick --no-memory --threads 1 --turns 1 --steps 1 --context 3"
    with pytest.raises(error) if is_raised else nullcontext():
        decode.run([*arguments.split(), "--contenders", "bitnet_jit", "--json", str(tmp_path / "figures.json")])
    assert [row.contender for row in read(tmp_path / "figures.json").rows] == ["bitnet_jit", "bound"]


def test_missing_packages_are_named_with_the_way_to_get_them(monkeypatch):
    monkeypatch.setattr(llama_cpp, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"llama_cpp and gguf not installed \(pip install llama-cpp-python gguf\)"):
        llama_cpp.prepare("llama_cpp", SHAPES["tiny"], "cpu", "checkpoint")
    assert llama_cpp.unsupported_reason("cuda") == "runs on the CPU only, not on cuda"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shape", "nobody"], "invalid choice: 'nobody'"),
        (["--context", "0"], "positive whole number, got '0'"),
        (["--head", "int4"], "invalid choice: 'int4'"),
        (["--contenders", "vllm"], "invalid choice: 'vllm'"),
    ],
)
def test_arguments_that_cannot_be_meant_are_named(arguments, words, capsys):
    with pytest.raises(SystemExit):
        decode.run(arguments)
    assert words in capsys.readouterr().err


def test_defaults_follow_the_device_and_the_model():
    on_cpu, on_gpu = (parse("", ["--device", device]) for device in ("cpu", "cuda"))
    assert on_cpu.contenders == ("bitnet_jit", "llama_cpp")
    assert on_gpu.contenders == ("bitnet_jit", "transformers_patched", "transformers_dense")
    assert len(on_gpu.threads) == 1
    assert on_cpu.decode_cases() == [(16, 1), (512, 1), (4096, 1), (16, 16)]
    assert (512, 64) in on_gpu.decode_cases()
    assert max(parse("", ["--shape", "tiny"]).contexts) == 512
    grouped = parse("", ["--shape", "qwen3-8b", "--packing", "i2", "--contenders", "llama_cpp", "bitnet_jit"])
    assert grouped.contenders == ("llama_cpp", "bitnet_jit_a8g", "bitnet_jit")


def test_steps_of_several_texts_are_those_of_generate(monkeypatch):
    model = decode_contenders.CONTENDERS["bitnet_jit"](SHAPES["small"], "cpu", "checkpoint")()
    ids = torch.cat((IDS, IDS.flip(1), IDS.roll(3, 1)))
    texts = []
    begin = ours.loop.begin
    monkeypatch.setattr(ours.loop, "begin", lambda *given: texts.append(begin(*given)) or texts[0])
    write = model.begin(ids, 6)
    assert write(2) > 0 < write(4)
    with pytest.raises(RuntimeError, match="wrote 0 tokens instead of 3"):
        write(1)
    monkeypatch.undo()
    expected = model.decoder.generate(ids, max_new_tokens=7)[:, -7:].tolist()
    assert [text.tokens for text in texts[0][1]] == expected


def test_the_share_outside_counts_what_the_profiler_sees():
    x, w = torch.ones(64, 256), torch.ones(256, 256)

    def multiply(steps):
        return turns.seconds_of(lambda: [x @ w for _ in range(steps)]) / steps

    assert 0 <= outside_share(multiply, 50, "cpu", 1.0) < 1
    assert outside_share(lambda steps: turns.seconds_of(lambda: x.add(1)) / steps, 1, "cpu", 1.0) is None


@pytest.mark.skipif(not HAS_LLAMA, reason=llama_cpp.unsupported_reason("cpu") or "")
@pytest.mark.parametrize(("config", "group_size"), [(SMALL, 0), (SMALL, 128), (QWEN3, 0), (QWEN3, 128)])
@pytest.mark.parametrize("head", ["checkpoint", "int8"])
def test_llama_cpp_computes_the_same_model(config, group_size, head):
    """Of architectures llama and qwen3: its logits differ from ours by the codes of activations alone."""
    shape = random_shape("small", "small", config, group_size)
    model = llama_cpp.prepare("llama_cpp", shape, "cpu", head)()
    expected = ours.build_decoder(shape, "cpu", "checkpoint")(IDS)[0, -1].numpy()
    logits = model.logits(IDS)
    assert np.linalg.norm(logits - expected) < 0.08 * np.linalg.norm(expected)
    write = model.begin(IDS.expand(3, -1), 6)
    assert write(3) > 0 < write(3)
    model.close()


@pytest.mark.skipif(not HAS_LLAMA, reason=llama_cpp.unsupported_reason("cpu") or "")
def test_a_llama_cpp_without_q2_0_gets_the_nearest_type_and_says_so(monkeypatch):
    assert llama_cpp.reads(Q2_0)
    assert not llama_cpp.reads(dataclasses.replace(Q2_0, number=9999))
    monkeypatch.setattr(llama_cpp, "reads", lambda kind: kind is not Q2_0)
    model = llama_cpp.prepare("llama_cpp", SHAPES["small-qwen3"], "cpu", "int8")()
    assert model.name == "llama_cpp TQ2_0, a scale per 256"
    model.close()


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # in torch, where inductor is imported
@pytest.mark.parametrize("config", [SMALL, BITNET, QWEN3], ids=["llama", "bitnet", "qwen3"])
def test_transformers_computes_the_same_model(config):
    from benchmarks.harness.models.bounds import Storage
    from benchmarks.providers.models.transformers import TransformersModel, build_model

    shape = random_shape("small", "small", config)
    expected = ours.build_decoder(shape, "cpu", "checkpoint")(IDS)[0, -1]
    with torch.compiler.set_stance("force_eager"), torch.no_grad():  # transformers would compile at its first call
        for dense, tolerance in ((False, 1e-4), (True, 0.08)):
            model = build_model(shape.open_reader(), "cpu", dense, torch.float32)
            error = (model(IDS).logits[0, -1] - expected).norm() / expected.norm()
            assert error < tolerance
        texts = []
        for compiled in (False, True):  # a growing cache, and a static one
            contender = TransformersModel("eager", model, Storage(16, 2, 2), compiled)
            contender.read(IDS)
            write = contender.begin(IDS.expand(2, -1), 4)
            assert write(2) > 0 < write(2)
            if compiled:  # without that mark no graph is captured on a GPU
                layer = contender._new_cache(2, 8).layers[0]
                assert all(hasattr(x, "_dynamo_static_input_type") for x in (layer.keys, layer.cumulative_length))
            texts.append(contender.chosen)
        greedy = model.generate(IDS, max_new_tokens=5, do_sample=False)[0, -5:].tolist()
        assert texts == [[[token] * 2 for token in greedy]] * 2


def test_the_picture_has_a_panel_for_each_batch_and_a_line_at_the_bound(tmp_path):
    from benchmarks.harness.models.report import ModelReport, Row

    def row(contender, context, batch, tokens):
        return Row("decode", "a", "int8", 1, context, batch, contender, tokens, tokens, 1.0, None, None, None)

    rows = (row("x", 16, 1, 5.0), row("bound", 16, 1, 9.0), row("x", 512, 1, 4.0), row("x", 16, 8, 30.0))
    picture.draw(ModelReport({"cpu": "z"}, rows, ()), tmp_path / "new" / "it.svg")
    drawn = (tmp_path / "new" / "it.svg").read_text()
    assert "<!-- z -->" in drawn
    assert "batch 8 -->" in drawn
    with pytest.raises(ValueError, match="no contender took part"):
        picture.draw(ModelReport({"cpu": "z"}, (), ()), tmp_path / "empty.png")
