"""Other libraries' models on our layers. Each module here imports its library when it is first called."""
