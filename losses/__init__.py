"""Reconstruction objectives for masked autoencoders; knows tensors only.

objective = build_objective("perceptual+mse")
result = objective(Reconstruction(prediction, image, mask), step)
prediction.backward(result.gradient)

The public names are listed in `__init__.pyi`. Each is imported when it is first used: settings, errors and expressions
need no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
