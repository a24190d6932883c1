"""The file that lists the models to serve, as TensorFlow Serving has it or as TOML.

models.config  --tokens-->  --text_format-->  Block  --model_fields-->  ModelConfig
models.toml    -------------toml_tree------>  Block  --model_fields-->  ModelConfig

>>> loads("model_config_list { config { name: 'a' base_path: '/models/a' } }", "example").models[0].source
'/models/a'
"""

from thriftserve.models.config_file.loading import ConfigFile, load, loads

__all__ = ["ConfigFile", "load", "loads"]
