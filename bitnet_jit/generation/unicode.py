"""Text as Unicode allows it. A Python string may hold lone surrogates, which no encoding of Unicode can write.

They come from bytes of the command line that are no UTF-8, from file names, and from JSON. Wherever a text comes in (a
prompt, a string to stop at), each becomes U+FFFD, like bytes that are no text on the way out.
"""

REPLACEMENT = "\ufffd"  # stands for bytes that are no character


def well_formed(text: str) -> str:
    r"""Return the text with U+FFFD in place of each lone surrogate; a pair of surrogates becomes its character.

    >>> ascii(well_formed("caf\udce9 \ud83d\ude42"))
    "'caf\\ufffd \\U0001f642'"
    """
    return text.encode("utf-16-le", errors="surrogatepass").decode("utf-16-le", errors="replace")
