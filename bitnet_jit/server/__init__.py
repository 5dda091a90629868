"""OpenAI's HTTP interface before an `InferenceEngine`; needs the extra `serve` (FastAPI, uvicorn, Jinja2)."""
