"""`PlainHelp`: a command whose help is shown as it is written, brackets and all."""

from typing import Any

from typer import core


class PlainHelp(core.TyperCommand):
    """A command whose help texts are no markup: in rich's, "[default: 5]" would be a style, and vanish."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if not getattr(core, "HAS_RICH", True):  # TYPER_USE_RICH=0: nothing reads markup
            return
        parts: list[Any] = [self, *self.params]
        for part in parts:
            if part.help:
                part.help = part.help.replace("[", r"\[")
