"""Loaded models: sessions of each backend behind one protocol, their registry, their loading and their devices.

    Plan --loader--> Servables (session, labels, settings) --registry--> service

`tensorflow/` and `python/` have one backend each. Nothing else here imports TensorFlow.
"""
