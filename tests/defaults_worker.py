"""The results of a process of `test_defaults.py`: the package's main paths, each as a digest of its numbers.

    python defaults_worker.py DEVICE DTYPE FOLDER

writes them as JSON; DEVICE and DTYPE are what torch makes tensors of that are told neither.
"""

import hashlib
import importlib
import json
import pkgutil
import sys
import warnings
from pathlib import Path

import torch

EXPLICIT = {"device": "cpu", "dtype": torch.float32}


def digest(*tensors):
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(f"{tensor.dtype} {tuple(tensor.shape)} {tensor.device}".encode())
        sha.update(tensor.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **EXPLICIT)


def import_everything():
    import bitnet_jit

    for _, name, _ in pkgutil.walk_packages(bitnet_jit.__path__, "bitnet_jit."):
        if not name.endswith("__main__"):
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:  # of an extra that is not installed
                if error.name.partition(".")[0] in ("bitnet_jit", "torch"):
                    raise
    from bitnet_jit.checkpoints.formats.own_packing import T5_IN_I2

    return digest(T5_IN_I2)


def load_and_generate():
    import bitnet_jit
    from bitnet_jit.checkpoints.embedded import embedded_model

    decoder = bitnet_jit.load(embedded_model())
    prompt = list(b"In the beginning ")
    drawn = decoder.generate([prompt, prompt], max_new_tokens=4, temperature=0.8, top_k=20, top_p=0.9, seed=1)
    streamed = list(decoder.stream(prompt, max_new_tokens=8, stop="day"))
    return [digest(decoder([prompt])), drawn.tolist(), streamed]


def save_and_load(folder):
    import bitnet_jit
    from bitnet_jit.checkpoints.embedded import embedded_model

    decoder, digests = bitnet_jit.load(embedded_model()), []
    for name in ("autobitlinear", "bitlinear", "t5", "i2"):
        bitnet_jit.save(decoder, folder / name, name)
        content = (folder / name / "model.safetensors").read_bytes()
        content = content[8 + int.from_bytes(content[:8], "little") :]  # behind the header, whose order varies
        again = bitnet_jit.load(folder / name)
        digests += [hashlib.sha256(content).hexdigest(), digest(again([list(b"And it ")]))]
    return digests


def layers():
    from bitnet_jit import BitLinear, PackedBitLinear, RMSNorm, add_lora, convert, merge_lora, pack
    from bitnet_jit import set_quantization_strength as set_strength

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(70, 33, **EXPLICIT), torch.nn.Linear(33, 9, **EXPLICIT))
    for number, parameter in enumerate(model.parameters()):
        parameter.data = random(*parameter.shape, seed=number)
    model, x = convert(model, use_rms_norm=True), random(5, 70, seed=9).requires_grad_()
    tensors = [model(x)]
    tensors += torch.autograd.grad(tensors[0].square().sum(), [x, *model.parameters()], create_graph=True)
    tensors += torch.autograd.grad(tensors[1].square().sum(), [x, model[0].weight])
    set_strength(model, 0.3)
    tensors.append(model(x))
    set_strength(model, 1.0)
    state = pack(model).state_dict()
    tensors += [model(x), *state.values(), model[0].weight * 1, model[0].dequantize()]
    empty = PackedBitLinear(70, 33, use_rms_norm=True, **EXPLICIT)
    empty.load_state_dict({name[2:]: tensor for name, tensor in state.items() if name.startswith("0.")})
    tensors.append(empty(x))
    codes = torch.randint(-1, 2, (9, 70), generator=torch.Generator().manual_seed(0), dtype=torch.int8, device="cpu")
    scale = random(9, 5).abs()
    grouped = PackedBitLinear.from_codes(codes, scale, group_size=16)
    tensors += [grouped(x), grouped.weight * 1, RMSNorm(70, **EXPLICIT)(x)]
    add_lora(model, r=3)
    tensors.append(model(x))
    for name, parameter in model.named_parameters():
        if "lora" in name:
            parameter.data = random(*parameter.shape, seed=len(name))
    tensors += [model(x), model[0].weight * 1]
    merge_lora(model)
    tensors += [model(x), BitLinear(7, 3, **EXPLICIT).pack()(random(2, 7)).new_zeros(1, **EXPLICIT)]
    return [digest(tensor) for tensor in tensors]


def torch_kernels():
    """Run the kernels that are chosen where no others fit."""
    from bitnet_jit.kernels.torch.norm import norm_gradients, norm_rows, quantize_rows
    from bitnet_jit.quant import dequantize_weight, quantize_weight

    w, x = random(6, 20), random(3, 20, seed=1)
    tensors = [*quantize_rows(x), norm_rows(x, w[0], 1e-6), *norm_gradients(x, x, w[0], 1e-6)]
    for options in ({}, {"scale": "row"}, {"scale": "group", "group_size": 8}):
        w_q, w_scale = quantize_weight(w, **options)
        tensors += [w_q, w_scale, dequantize_weight(w_q, w_scale, options.get("group_size", 0))]
    return digest(*tensors)


def tuning():
    import bitnet_jit
    from bitnet_jit.checkpoints.embedded import embedded_model
    from bitnet_jit.tuning.problems import problems_of_model, problems_of_shapes
    from bitnet_jit.tuning.synthetic import argument_sets

    problems = problems_of_model(bitnet_jit.load(embedded_model()), (1, 20))
    problems |= problems_of_shapes([(33, 70)], (1,), torch.device("cpu"))
    digests = {}
    for problem in sorted(problems, key=str)[::3]:
        arguments = [argument for argument in argument_sets(problem, torch.device("cpu"))[0]]
        digests[str(problem)] = digest(*(argument for argument in arguments if isinstance(argument, torch.Tensor)))
    return digests


def training(folder):
    from bitnet_jit.training.run import train
    from bitnet_jit.training.settings import TrainSettings

    sizes = {"layers": 1, "hidden_size": 32, "intermediate_size": 48, "heads": 2, "context_length": 32, "window": 16}
    settings = TrainSettings(steps=3, batch_size=2, warmup_steps=1, dropout=0.0, **sizes)
    text = torch.frombuffer(
        bytearray(b"In the beginning God created the heaven and the earth. " * 8), dtype=torch.uint8
    )
    network, history = train(settings, text, text, folder, torch.device("cpu"))
    return [digest(history.losses, *network.parameters()), history.validations]


def main(device, dtype, folder):
    torch.set_default_device(None if device == "none" else device)
    torch.set_default_dtype(getattr(torch, dtype))
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    results = {
        "imports": import_everything(),
        "generation": load_and_generate(),
        "saving": save_and_load(folder),
        "layers": layers(),
        "torch kernels": torch_kernels(),
        "tuning": tuning(),
        "training": training(folder / "run"),
    }
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
