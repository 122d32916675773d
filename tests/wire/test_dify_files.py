"""Files on their way to a Dify app: names, kinds, and the form that carries them."""

import pytest

from streaming.wire.dialects.dify_files import (
    NAME_MAX_CHARACTERS,
    NO_FILES,
    TYPES,
    USUAL,
    FileKind,
    FileLimits,
    Multipart,
    Upload,
    clean_name,
    kind_of,
    media_type_of,
)
from streaming.wire.errors import Refusal


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        ("a.pdf", "a.pdf"),
        ("报告 2026 (终).PDF", "报告 2026 (终).PDF"),
        ("../../etc/passwd", "passwd"),
        ("C:\\fakepath\\a.png", "a.png"),
        ("/", "file"),
        ("..", "file"),
        ("", "file"),
        (" .hidden. ", "hidden"),
        ('a".png', "a'.png"),
        ("a\r\nX-Evil: 1\x00.png", "aX-Evil: 1.png"),
        ("a\u202egnp.exe", "agnp.exe"),  # shown from right to left it would end in .png
        ("a\u2028b\u200b.png", "ab.png"),
        ("a\ud83d.png", "a.png"),
    ],
)
def test_a_file_name_is_cleaned(given: str, clean: str) -> None:
    assert clean_name(given) == clean


def test_a_long_name_keeps_its_extension() -> None:
    name = clean_name("长" * 100_000 + ".docx")
    assert len(name) == NAME_MAX_CHARACTERS
    assert name.endswith("长.docx")
    assert len(clean_name("a." + "b" * 100_000)) <= NAME_MAX_CHARACTERS
    assert len(clean_name("a" * 100_000)) <= NAME_MAX_CHARACTERS


LIMITS = FileLimits(
    max_count=3,
    transfer_methods=["local_file"],
    kinds={"image": FileKind(extensions=["jpg", "png"]), "custom": FileKind(extensions=["stl"], max_bytes=5)},
)


@pytest.mark.parametrize(("name", "kind"), [("a.png", "image"), ("a.b.JPG", "image"), ("a.stl", "custom")])
def test_a_kind_follows_from_the_extension(name: str, kind: str) -> None:
    assert kind_of(name, LIMITS) == (kind, LIMITS.kinds[kind])


@pytest.mark.parametrize("name", ["a.exe", "a.png.exe", "a", "png", ".png", "a.", "a.png ", "a.pn\u0261"])
def test_other_types_are_refused_and_the_refusal_says_what_is_taken(name: str) -> None:
    with pytest.raises(Refusal, match="jpg, png, stl") as caught:
        kind_of(name, LIMITS)
    assert (caught.value.code, caught.value.status) == ("unsupported_file_type", 415)
    with pytest.raises(Refusal):
        kind_of(name, NO_FILES)


@pytest.mark.parametrize("name", ["a.svg", "a.html", "a.htm", "a.xml", "a.exe", "a.js", "a.sh", "a"])
def test_an_app_that_told_nothing_gets_nothing_that_can_run(name: str) -> None:
    with pytest.raises(Refusal):
        kind_of(name, USUAL)


def test_an_app_that_told_nothing_gets_what_people_usually_send() -> None:
    for name, kind in (("a.jpg", "image"), ("a.pdf", "document"), ("a.mp3", "audio"), ("a.mp4", "video")):
        assert kind_of(name, USUAL)[0] == kind


def test_the_media_type_is_ours_whatever_the_client_says() -> None:
    assert media_type_of("a.PNG") == "image/png"
    assert media_type_of("a.md") == "text/markdown"
    assert media_type_of("a.stl") == media_type_of("a") == "application/octet-stream"
    for types in TYPES.values():
        assert all(extension == extension.lower() and "/" in media_type for extension, media_type in types.items())


class Pieces(list[bytes]):
    """Content in pieces; its length is in bytes."""

    def __len__(self) -> int:
        return sum(map(len, self))


def test_a_form_is_as_long_as_it_says_and_byte_exact() -> None:
    content = Pieces([b"\x00\xff", b"--b0--\r\n", b"end"])
    form = Multipart(Upload(name="ü.png", media_type="image/png", content=content), "Zoë\r\n--x", "b0")
    expected = (
        b'--b0\r\nContent-Disposition: form-data; name="user"\r\n\r\nZo\xc3\xab\r\n--x\r\n'
        b'--b0\r\nContent-Disposition: form-data; name="file"; filename="\xc3\xbc.png"\r\n'
        b"Content-Type: image/png\r\n\r\n\x00\xff--b0--\r\nend\r\n--b0--\r\n"
    )
    assert b"".join(form) == expected
    assert len(form) == len(expected)
