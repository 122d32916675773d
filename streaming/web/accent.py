"""Any colour -> a stylesheet in which it can be read: WCAG 2.2 (1.4.3) asks for a contrast of 4.5.

A stylesheet of its own, because the page's policy forbids inline ones, and a script would colour the page too late.
"""

CONTRAST = 4.5
_MIX_STEPS = 20
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
# The grounds of static/page.css (--soft, the less contrasting one), and towards what a colour is mixed to stand out.
_LIGHT = ((242, 244, 247), _BLACK)
_DARK = ((34, 39, 46), _WHITE)

Colour = tuple[int, int, int]


def stylesheet(accent: str) -> str:
    """Return CSS that sets --accent, --on-accent and --link for both themes; `accent` is six hex digits."""
    red, green, blue = bytes.fromhex(accent)
    colour = (red, green, blue)
    light, dark = (_variables(colour, *theme) for theme in (_LIGHT, _DARK))
    return (
        f":root{{{light}}}@media(prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}"
        f":root[data-theme=dark]{{{dark}}}"
    )


def _variables(colour: Colour, ground: Colour, towards: Colour) -> str:
    on_accent = max(_WHITE, _BLACK, key=lambda text: contrast(text, colour))
    link = next(
        mixed for step in range(_MIX_STEPS + 1) if contrast(mixed := _mix(colour, towards, step), ground) >= CONTRAST
    )
    return f"--accent:{_hex(colour)};--on-accent:{_hex(on_accent)};--link:{_hex(link)}"


def contrast(one: Colour, other: Colour) -> float:
    """Return the contrast ratio of two colours, 1 to 21."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: Colour) -> float:
    parts = [value / 255 / 12.92 if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def _mix(colour: Colour, towards: Colour, step: int) -> Colour:
    red, green, blue = (round(a + (b - a) * step / _MIX_STEPS) for a, b in zip(colour, towards, strict=True))
    return red, green, blue


def _hex(colour: Colour) -> str:
    return "#" + bytes(colour).hex()
