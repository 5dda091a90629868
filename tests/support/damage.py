"""Damage that files of any format come to."""

HEADER = 4000  # bytes, most of which are of a header


def flipped(draw, content):
    """Change some bytes, most of them in the header."""
    end = len(content) if draw.random() < 0.2 else min(len(content), HEADER)
    for _ in range(draw.randint(1, 6)):
        content[draw.randrange(end)] = draw.randrange(256)
    return content


def cut(draw, content):
    """Cut off the end."""
    return content[: draw.randrange(len(content))]


def grown(draw, content):
    """Add bytes to the end."""
    return content + bytes(draw.randint(1, 100))
