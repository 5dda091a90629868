"""GGUF, the format of llama.cpp.

Reading:
    found.py        which path is a GGUF model
    file.py         GgufFile: the container, its header checked as a whole; parts.py: several files that hold one model
    values.py       the values of its metadata; keys.py: each checked as it is taken
    tensor_type.py  TensorType: how a type lays out its numbers; types.py has the table of those we read
    runs.py         ternary blocks -> canonical codes; i2_s.py: microsoft's I2_S; q2_0.py: which dialect a Q2_0 is
    floats.py       blocks of other types -> floats
    names.py        our names -> those of the file; row_order.py: rows of q and k, as a file turns them and as we do
    config.py       metadata -> DecoderConfig; rope.py: its rotary scaling; delta_net.py, gemma3.py: of these models
    tokenizer.py    metadata -> the content of a tokenizer.json; sentencepiece.py: of that kind; chat.py: the template
    model.py        GgufModel: the reader

Writing:
    target.py       GgufTarget: the tensors of a file to be made
    encode.py       canonical codes -> blocks
    config_keys.py  DecoderConfig -> metadata; tokenizer_keys.py: a tokenizer
    writing.py      the file
"""
