"""Loaded models: sessions of each backend behind one protocol, their registry, their loading and their devices.

    Plan --loader--> Servables (session, labels, settings) --registry--> service

`tensorflow/` and `python/` have one backend each. Nothing else here imports TensorFlow.
"""

import sys

from thriftserve.repository import image_settings

#: The settings' former place, for scripts that know it; until 1.0.
sys.modules[f"{__name__}.image_settings"] = image_settings
