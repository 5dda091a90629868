#!/usr/bin/env bash
# What CI cannot do, on a machine with a GPU: the suite there, compute-sanitizer over its kernels, and the benchmarks.
# What it prints and measures goes to a folder: tools/test_gpu.sh [benchmarks/results/h200 [suite] [sanitizers] [benchmarks]]
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
results=${1:-benchmarks/results/h200}
parts=${*:2}
mkdir -p "$results"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
# the slowest first
gpu_tests="tests/kernels/test_conformance.py tests/models/test_compile.py tests/nn/test_distributed.py tests/tuning/test_on_gpu.py
    tests/kernels/triton/test_floats.py tests/kernels/triton/test_attention.py tests/kernels/triton/test_head.py
    tests/kernels/triton/test_tokens.py
    tests/runner/test_schedules.py tests/generation/test_on_gpu.py
    tests/ops/test_on_gpu.py
    tests/kernels/triton/test_norm_gemv.py
    tests/kernels/triton/test_linear.py tests/kernels/triton/test_rows.py tests/kernels/triton/test_repeats.py
    tests/kernels/triton/test_weights.py tests/kernels/triton/test_norm_gradients.py
    tests/nn/test_on_gpu.py tests/models/test_on_gpu.py tests/models/test_families_on_gpu.py
    tests/models/test_packed_table.py tests/checkpoints/test_on_gpu.py
    tests/devices/test_checks.py tests/benchmarks/test_on_gpu.py
    tests/engine/devices/test_on_gpus.py tests/engine/devices/test_backends.py tests/engine/memory/test_staging.py
    tests/engine/profiling/test_profiler.py tests/engine/targets/test_on_gpu.py tests/engine/test_builder.py
    tests/engine/test_tensors.py tests/engine/test_text_on_gpu.py"
pytest="$python -m pytest -q -p no:cacheprovider -p no:benchmark"
failed=0

suite() {
    "$python" -c 'import torch, triton; print(torch.cuda.get_device_name(), "torch", torch.__version__, "triton", triton.__version__)'
    # kernels are compiled for most examples, so several processes share the work where pytest-xdist is installed
    parallel=$("$python" -c 'import xdist' 2>/dev/null && echo "-n ${PROCESSES:-8} --dist worksteal")
    # shellcheck disable=SC2086
    $pytest $parallel --durations=5 $gpu_tests
}

sanitizers() {
    for tool in memcheck racecheck; do
        echo "compute-sanitizer --tool $tool"
        # every kernel once, at shapes where nothing is a whole tile
        compute-sanitizer --tool "$tool" --error-exitcode 9 $pytest tests/kernels/triton/test_linear.py \
            tests/kernels/triton/test_weights.py tests/kernels/triton/test_norm_gradients.py tests/ops/test_on_gpu.py \
            tests/kernels/triton/test_attention.py tests/kernels/triton/test_head.py tests/kernels/triton/test_tokens.py \
            tests/kernels/triton/test_floats.py tests/kernels/triton/test_norm_gemv.py \
            -k "may_have_gaps and 260 or tiny_shapes or norms_are_near or test_weights.py or row_with_nan or \
                nan_and_infinity or padding_alone or every_kind_of_heads and 80 or is_not_finite or heads_of_int8 or \
                test_tokens.py or parts_of_one_tensor" || return
    done
}

benchmarks() {
    "$python" benchmarks/bench_ternary_matmul.py --device cuda --seconds 0.05 --json "$results/ternary_matmul.json" \
        --picture "$results/ternary_matmul.png" --roofline "$results/roofline.png" &&
        "$python" benchmarks/bench_rms_norm.py --device cuda --json "$results/rms_norm.json" \
            --picture "$results/rms_norm.png" &&
        "$python" benchmarks/bench_training.py --json "$results/training.json" --picture "$results/training.png"
}

for part in ${parts:-suite sanitizers benchmarks}; do
    echo "== $part"
    "$part" >"$results/$part.log" 2>&1 || { echo "$part failed, see $results/$part.log"; failed=1; }
    tail -n 3 "$results/$part.log"
done
exit $failed
