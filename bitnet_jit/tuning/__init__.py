"""The autotuner as users see it: `autotune` a model or shapes, and what it found."""
