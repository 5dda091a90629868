"""Tensors through any module: batches that find their size, workers, streams, and how fast it is."""
