"""The model zoo: real pretrained models, small standard networks, and the data to judge them.

- :mod:`~examples.zoo.real`: pretrained models that ordinary packages carry, with valid inputs.
- :mod:`~examples.zoo.tiny`: graphs of a few nodes, one per way to store weights; no torch.
- :mod:`~examples.zoo.benchnets`: the networks of the CPU benchmarks, rebuilt from a seed.
- :mod:`~examples.zoo.nets`: small torch networks that train in minutes.
- :mod:`~examples.zoo.data`: text, pictures and labels; :mod:`~examples.zoo.calib` and
  :mod:`~examples.zoo.evals`: the same as calibration feeds and evaluators.

Run ``python -m examples.zoo fetch`` once; everything then works offline.
"""
