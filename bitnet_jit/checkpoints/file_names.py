"""The names of the files of a model's folder, as Hugging Face has them."""

CONFIG = "config.json"
GENERATION = "generation_config.json"
WEIGHTS = "model.safetensors"  # where there is one file of weights
INDEX = "model.safetensors.index.json"  # where there are several
