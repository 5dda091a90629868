"""The engine: many requests for text or tensors at once, on the models and devices that it holds."""
