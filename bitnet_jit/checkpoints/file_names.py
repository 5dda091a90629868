"""The names of the files of a model's folder, as Hugging Face has them."""

import re

CONFIG = "config.json"
GENERATION = "generation_config.json"
MODULES, POOLING = "modules.json", "1_Pooling"  # of sentence-transformers; the latter is a folder
WEIGHTS = "model.safetensors"  # where there is one file of weights
INDEX = "model.safetensors.index.json"  # where there are several
GGUF_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE)  # name, number, count, end
