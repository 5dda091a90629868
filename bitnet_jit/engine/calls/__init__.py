"""What an engine is asked, by kind: texts, tensors, embeddings; `InferenceEngine` is made of these."""
