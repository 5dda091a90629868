"""GGUF, the format of llama.cpp.

file.py        GgufFile: the container, its header checked as a whole
values.py      the values of its metadata
tensor_type.py TensorType: how a type lays out its numbers; types.py has the table of those we read
runs.py        ternary blocks -> canonical codes
floats.py      blocks of other types -> floats
q2_0.py        which of two dialects a file's Q2_0 is
i2_s.py        microsoft's I2_S in its variants
names.py       our names -> those of the file
config.py      metadata -> DecoderConfig
tokenizer.py   metadata -> the content of a tokenizer.json
model.py       GgufModel: the reader
"""
