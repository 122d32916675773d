"""The .env file."""

from pathlib import Path

import pytest

from streaming.dotenv import load_dotenv
from streaming.settings import Settings, SettingsError
from tests.settings_cases import SECRET


class TestDotenv:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / ".env"

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("", {}),
            ("A=1\nB=2\n", {"A": "1", "B": "2"}),
            ("A=1\r\nB=2", {"A": "1", "B": "2"}),
            ("\ufeffA=1", {"A": "1"}),
            ("# a comment\n\n  # another\nA=1 # and one more", {"A": "1"}),
            ("A=a#b", {"A": "a#b"}),
            ("export A=1", {"A": "1"}),
            (" A = 1 ", {"A": "1"}),
            ("A=", {"A": ""}),
            ("A=two words", {"A": "two words"}),
            ("A='it # is $B'", {"A": "it # is $B"}),
            ('A="two\\nlines" # comment', {"A": "two\nlines"}),
            ('A="two\nlines"', {"A": "two\nlines"}),
            ("B=1\nA=${B}", {"B": "1", "A": "${B}"}),  # a key may hold a dollar sign
            ("A=b=c==", {"A": "b=c=="}),
            ("A=1\nA=2", {"A": "2"}),
        ],
    )
    def test_lines(self, file: Path, content: str, expected: dict[str, str]) -> None:
        file.write_text(content, "utf-8", newline="")
        assert load_dotenv(file, {}) == expected

    @pytest.mark.parametrize(
        ("content", "lines"),
        [
            (SECRET, [1]),
            (f"A=1\n\n# comment\n\nKEY {SECRET}\nB=2", [5]),
            (f"KEY='{SECRET}", [1]),
            (f"KEY='{SECRET}' x\nA=1\n={SECRET}\n", [1, 3]),
            (f"export {SECRET}", [1]),
        ],
    )
    def test_a_malformed_line_is_named_by_number_alone(self, file: Path, content: str, lines: list[int]) -> None:
        file.write_text(content)
        with pytest.raises(SettingsError) as caught:
            load_dotenv(file, {})
        assert [problem.split(": ")[0] for problem in caught.value.problems] == [
            f"{file}, line {line} (not shown)" for line in lines
        ]
        assert SECRET not in str(caught.value)

    def test_the_real_environment_wins_and_stays_as_it_is(self, file: Path) -> None:
        file.write_text("A=file\nB=file\nC=file")
        environment = {"A": "real", "B": "", "D": "real"}
        assert load_dotenv(file, environment) == {"A": "real", "B": "", "C": "file", "D": "real"}
        assert environment == {"A": "real", "B": "", "D": "real"}

    @pytest.mark.parametrize(
        ("content", "environment", "bind"),
        [
            ("PORT=5000", {}, "127.0.0.1:5000"),
            ("PORT=5000", {"PORT": "6000"}, "0.0.0.0:6000"),
            ("PORT=5000\nHOST=::", {}, "[::]:5000"),
            ("PORT=5000", {"HOST": "0.0.0.0"}, "0.0.0.0:5000"),
        ],
    )
    def test_a_port_of_ones_own_opens_nothing_to_the_network(
        self, file: Path, content: str, environment: dict[str, str], bind: str
    ) -> None:
        file.write_text(content)
        assert Settings.from_env(load_dotenv(file, environment)).bind == bind

    def test_no_file_is_fine_but_an_unreadable_one_is_not(self, file: Path) -> None:
        assert load_dotenv(file, {"A": "1"}) == {"A": "1"}
        file.write_bytes(b"A=\xff")
        with pytest.raises(SettingsError, match="is not UTF-8"):
            load_dotenv(file, {})
        file.unlink()
        file.mkdir()
        with pytest.raises(SettingsError, match=r"cannot be read: Is a directory"):
            load_dotenv(file, {})
