"""Metal kernels: their sources, and what launches of them look like. `kernels/mlx` and `kernels/mps` launch them.

    vocabulary/   metal.h, cuda.h: the words in which sources are written, in each dialect
    sources/      *.metal, bodies of kernels; *.h, what they share
    source.py     Source: a body, the names of its buffers, its headers; its text in a dialect
    launch.py     Launch, Bound, Varying: kernels with everything decided but their buffers
    layout.py     i2/words, which all of them read
    table.py      all kernels, as records of a backend

Nothing here imports MLX or torch.
"""
