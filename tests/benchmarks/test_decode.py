"""The benchmark of whole models, from its command line to its files, on models so small that only the fields count."""

import dataclasses
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
from benchmarks.suites import decode
from benchmarks.suites.decode_options import parse

SMALL = llama_config(96, 256, 512, 2, 4, 2, 64, 10000.0)
BITNET = dataclasses.replace(SMALL, activation="relu2", sub_norms=True, tied_embeddings=True)
HAS_LLAMA = llama_cpp.unsupported_reason("cpu") is None
IDS = torch.randint(96, (1, 20), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def small_limits(small_limits, monkeypatch):
    """Shrink the buffers of limits, too."""
    monkeypatch.setattr(turns, "LIMIT_BYTES", 1 << 18)


@pytest.fixture
def small_shape(monkeypatch):
    """Put a small model beside the others."""
    monkeypatch.setitem(SHAPES, "small", random_shape("small", "small", BITNET))


@pytest.mark.usefixtures("small_limits", "small_shape")
def test_a_run_from_its_command_line_to_its_files(tmp_path, capsys):
    files = [tmp_path / "figures.json", tmp_path / "figures.png"]
    arguments = "--shape small --quick --threads 1 --turns 2 --steps 2 --batch 1 3 --context 5 --prompt-tokens 7"
    everyone = ["bitnet_jit", "bitnet_jit_t5", "llama_cpp", "transformers_dense"]
    options = ["--contenders", *everyone, "--json", str(files[0]), "--picture", str(files[1])]
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
        profiled = (row.figure, row.batch) == ("decode", 1) and row.contender.startswith("bitnet_jit")
        assert (row.outside_share is not None) == profiled
    assert [refusal.contender for refusal in returned.refusals] == everyone[3 - (not HAS_LLAMA) :]
    printed = capsys.readouterr().out
    assert "decode small, head checkpoint, 5 tokens, batch 3, 1 threads" in printed
    assert "transformers_dense, head checkpoint: is measured on a GPU only, not on cpu" in printed
    assert HAS_LLAMA or "pip install llama-cpp-python gguf" in printed


@pytest.mark.usefixtures("small_limits")
def test_the_model_of_the_package_runs_too():
    arguments = "--shape tiny --quick --threads 1 --turns 1 --steps 1 --context 3 --prompt-tokens 3"
    report = decode.run([*arguments.split(), "--contenders", "bitnet_jit"])
    assert [row.contender for row in report.rows] == ["bitnet_jit", "bound"] * 2
    assert all(peak.peak_bytes >= 0 and peak.resident_bytes > 2**20 for peak in report.peaks)


@pytest.mark.usefixtures("small_limits", "small_shape")
def test_an_int8_head_is_measured_or_refused_in_words():
    arguments = "--shape small --quick --threads 1 --turns 1 --steps 1 --context 3 --prompt-tokens 3 --head int8"
    report = decode.run([*arguments.split(), "--contenders", "bitnet_jit"])
    assert bool(report.rows) != bool(report.refusals)
    assert {row.head for row in report.rows} <= {"int8"}
    assert all("has no head='int8'" in refusal.reason for refusal in report.refusals)


@pytest.mark.usefixtures("small_limits", "small_shape")
def test_the_weights_are_saved_as_a_checkpoint_that_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "RUNS", 2)
    arguments = "--shape small --quick --threads 1 --turns 1 --steps 1 --context 3 --prompt-tokens 3 --contenders"
    report = decode.run([*arguments.split(), "bitnet_jit", "--start", "--save", str(tmp_path / "model")])
    expected = ours.build_decoder(SHAPES["small"], "cpu", "checkpoint")(IDS)
    assert torch.equal(bitnet_jit.load(tmp_path / "model")(IDS), expected)
    (row,) = report.starts
    assert min(row.imports, row.load, row.first_token) > 0


def test_a_start_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="the process that starts failed: .*CheckpointError"):
        start.measure_start(tmp_path / "nothing", "cpu", "checkpoint")


@pytest.mark.usefixtures("small_shape")
def test_texts_beyond_the_context_are_refused_before_anything_is_built():
    with pytest.raises(ValueError, match=r"do not fit the context of tiny, 1024"):
        decode.run(["--shape", "tiny", "--context", "1024"])


@pytest.mark.usefixtures("small_limits", "small_shape")
@pytest.mark.parametrize(("error", "is_raised"), [(KeyboardInterrupt, False), (RuntimeError, True)])
def test_an_end_before_the_end_loses_no_figures(tmp_path, monkeypatch, error, is_raised):
    def stop(*arguments):
        raise error("in the middle")

    monkeypatch.setattr(decode.Run, "prefill", stop)
    arguments = "--shape small --quick --threads 1 --turns 1 --steps 1 --context 3 --contenders bitnet_jit --json"
    with pytest.raises(error) if is_raised else nullcontext():
        decode.run([*arguments.split(), str(tmp_path / "figures.json")])
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
    known = list(decode.CONTENDERS)
    on_cpu, on_gpu = (parse("", known, ["--device", device]) for device in ("cpu", "cuda"))
    assert on_cpu.contenders == ("bitnet_jit", "llama_cpp")
    assert on_gpu.contenders == ("bitnet_jit", "transformers_patched", "transformers_dense")
    assert len(on_gpu.threads) == 1
    assert on_cpu.decode_cases() == [(16, 1), (512, 1), (4096, 1), (16, 16)]
    assert (512, 64) in on_gpu.decode_cases()
    assert max(parse("", known, ["--shape", "tiny"]).contexts) == 512


def test_the_time_of_several_texts_is_without_that_of_their_prompts(monkeypatch):
    """Texts of 4 tokens take 1 s for their prompts and 0.25 s per further token."""
    model = ours.OurModel("a", None, None)
    asked = iter([1.5, 1.25, 1.0, 2.0, 1.0, 0.75])
    monkeypatch.setattr(ours, "seconds_of", lambda function: next(asked))
    write = model.begin(IDS.expand(3, -1), 100)
    assert write(4) == 0.25
    assert write(4) == 0.15  # a whole text within the time of its prompts: of five tokens, the mean


def test_the_share_outside_counts_what_the_profiler_sees():
    x, w = torch.ones(64, 256), torch.ones(256, 256)

    def multiply(steps):
        return turns.seconds_of(lambda: [x @ w for _ in range(steps)]) / steps

    assert 0 <= outside_share(multiply, 50, "cpu", 1.0) < 1
    assert outside_share(lambda steps: turns.seconds_of(lambda: x.add(1)) / steps, 1, "cpu", 1.0) is None


@pytest.mark.skipif(not HAS_LLAMA, reason=llama_cpp.unsupported_reason("cpu") or "")
@pytest.mark.parametrize("group_size", [0, 128])
@pytest.mark.parametrize("head", ["checkpoint", "int8"])
def test_llama_cpp_computes_the_same_model(group_size, head):
    """Of architecture llama: its logits differ from ours by the codes of activations alone."""
    shape = random_shape("small", "small", SMALL, group_size)
    model = llama_cpp.prepare("llama_cpp", shape, "cpu", head)()
    expected = ours.build_decoder(shape, "cpu", "checkpoint")(IDS)[0, -1].numpy()
    logits = model.logits(IDS)
    assert np.linalg.norm(logits - expected) < 0.08 * np.linalg.norm(expected)
    write = model.begin(IDS.expand(3, -1), 6)
    assert write(3) > 0 < write(3)
    model.close()


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # in torch, where inductor is imported
@pytest.mark.parametrize("config", [SMALL, BITNET], ids=["llama", "bitnet"])
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
            texts.append(contender.chosen)
        greedy = model.generate(IDS, max_new_tokens=5, do_sample=False)[0, -5:].tolist()
        assert texts == [[[token] * 2 for token in greedy]] * 2


def test_the_picture_has_a_panel_for_each_batch_and_a_line_at_the_bound(tmp_path):
    from benchmarks.harness.models.report import Report, Row

    def row(contender, context, batch, tokens):
        return Row("decode", "a", "int8", 1, context, batch, contender, tokens, tokens, 1.0, None, None, None)

    rows = (row("x", 16, 1, 5.0), row("bound", 16, 1, 9.0), row("x", 512, 1, 4.0), row("x", 16, 8, 30.0))
    picture.draw(Report({"cpu": "z"}, rows, (), ()), tmp_path / "new" / "it.svg")
    drawn = (tmp_path / "new" / "it.svg").read_text()
    assert "<!-- z -->" in drawn
    assert "batch 8 -->" in drawn
    with pytest.raises(ValueError, match="no contender took part"):
        picture.draw(Report({"cpu": "z"}, (), (), ()), tmp_path / "empty.png")
