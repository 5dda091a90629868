"""The border: how each format names, packs and scales what it stores."""
