"""The border: how each format names, packs and scales what it stores.

A format that is read is one class in one file, a `Reader` (reader.py says what it promises), and one name in FORMATS of
registry.py. One that is written is a `Writer` (writer.py) and one line in WRITERS there. Nothing outside this folder
knows a format: loading, saving and reading back go by those two protocols and by the names of decoder_names.py.

Folders of Hugging Face hold their ternary layers in several ways. Each is a `Storage` (hf_storage.py) and one line in
STORAGES of hf_quantization.py, keyed by the quant_method of config.json; our own i2 and t5 are one of them.
"""
