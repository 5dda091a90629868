"""The border: how each format names, packs and scales the tensors of a model.

To read a format, write one class in one file, a `Reader` (reader.py lists its promises), and add its name to FORMATS of
registry.py. To write one, add a `Writer` (writer.py) and a line in WRITERS there. No module outside this folder knows
how a format stores anything: load, save and the reading back go by these two protocols and by our names of tensors
(decoder_names.py).

Folders of Hugging Face hold their ternary layers in several ways. Each is a `Storage` (hf_storage.py) and one line in
STORAGES of hf_quantization.py, keyed by the quant_method of config.json; our own i2 and t5 are one of them.
"""
