"""Several upstreams, from a TOML file."""

from pathlib import Path

import pytest

from streaming import upstream_settings
from streaming.settings import Settings
from streaming.upstream_settings import UpstreamSettings
from tests.settings_cases import SECRET, problems_of


class TestUpstreamsFile:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / "upstreams.toml"

    def test_the_order_is_the_files(self, file: Path) -> None:
        file.write_text("""
            [[upstream]]
            name = "azure"
            dialect = "openai"
            url = "https://x.azure.com/openai/deployments/d?api-version=1"
            api_key_env = "AZURE_KEY"
            auth_header = "api-key"
            include_usage = false
            [[upstream]]
            name = "local_2"
            dialect = "ollama"
            model = "m"
            models = ["org/m-2", "m 3"]
            system_prompt = ""
            [[upstream]]
            name = "app-1"
            dialect = "dify"
            api_key_env = "UPSTREAM_API_KEY"
            dify_mode = "workflow"
            dify_prompt_input = "q"
            [[upstream]]
            name = "d"
            dialect = "demo"
        """)
        mapping = {"UPSTREAMS_FILE": str(file), "AZURE_KEY": " a ", "UPSTREAM_API_KEY": "b", "SYSTEM_PROMPT": "s"}
        assert Settings.from_env(mapping).upstreams == (
            UpstreamSettings(
                name="azure",
                dialect="openai",
                url="https://x.azure.com/openai/deployments/d?api-version=1",
                api_key="a",
                auth_header="api-key",
                system_prompt="s",
                include_usage=False,
            ),
            UpstreamSettings(
                name="local_2",
                dialect="openai",
                url="http://127.0.0.1:11434/v1",
                model="m",
                models=("org/m-2", "m 3"),
                system_prompt="",
            ),
            UpstreamSettings(
                name="app-1",
                dialect="dify",
                url="https://api.dify.ai/v1",
                api_key="b",
                dify_mode="workflow",
                dify_prompt_input="q",
            ),
            UpstreamSettings(name="d"),
        )

    @pytest.mark.parametrize(
        ("table", "expected"),
        [
            ('dialect = "demo"', ["upstream 1: name is not set: allowed is 1 to 64 characters"]),
            ('name = "x"', ["upstream 'x': dialect is not set: allowed is one of demo, openai"]),
            ('name = "X"\ndialect = "demo"', ["upstream 'X': name is 'X': allowed is 1 to 64 characters"]),
            (f'name = "{"x" * 65}"\ndialect = "demo"', ["x': name is 'xxx"]),
            ('name = "x"\ndialect = "azure"', ["upstream 'x': dialect is 'azure': allowed is one of demo"]),
            ('name = "x"\ndialect = []', ["upstream 'x': dialect is []: allowed is one of demo"]),
            (
                'name = "x"\ndialect = "openai"\nmodle = "m"',
                ["unknown key 'modle'; did you mean model?", "api_key_env is not set", "model is not set"],
            ),
            (
                'name = "x"\ndialect = "demo"\nqqq = 1',
                ["unknown key 'qqq'; allowed are name, dialect, url, api_key_env"],
            ),
            ('name = "x"\ndialect = "demo"\nmodel = "m"', ["upstream 'x': model means nothing to dialect 'demo'"]),
            ('name = "x"\ndialect = "dify"\nurl = "http://d"\nmodel = "m"', ["model means nothing to dialect 'dify'"]),
            (
                'name = "x"\ndialect = "ollama"\nmodel = "m"\ndify_mode = "chat"',
                ["dify_mode means nothing to dialect 'ollama'"],
            ),
            ('name = "x"\ndialect = "ollama"\nmodel = 5', ["upstream 'x': model is 5: allowed is text"]),
            (
                'name = "x"\ndialect = "ollama"\nmodel = "m"\nmodels = 5',
                ["upstream 'x': models is 5: allowed is names of models"],
            ),
            (
                'name = "x"\ndialect = "ollama"\nmodel = "m"\nmodels = [""]',
                ["upstream 'x': models is ['']: allowed is names of"],
            ),
            ('name = "x"\ndialect = "demo"\nmodels = ["m"]', ["upstream 'x': models means nothing to dialect 'demo'"]),
            ('name = "x"\ndialect = "ollama"\nmodel = ""', ["upstream 'x': model is '': allowed is text that is not"]),
            (
                'name = "x"\ndialect = "ollama"\nmodel = "m"\ninclude_usage = "no"',
                ["upstream 'x': include_usage is 'no': allowed is true or false"],
            ),
            (
                'name = "x"\ndialect = "ollama"\nmodel = "m"\nurl = "x"',
                ["upstream 'x': url is 'x': allowed is an http:// or"],
            ),
            (
                'name = "x"\ndialect = "ollama"\nmodel = "m"\nurl = 7',
                ["upstream 'x': url is 7: allowed is an http:// or"],
            ),
            (
                'name = "x"\ndialect = "deepseek"\nmodel = "m"',
                ["upstream 'x': the key of api_key_env is not set: api.deepseek.com asks for one"],
            ),
            (
                'name = "x"\ndialect = "deepseek"\nmodel = "m"\napi_key_env = "NO_KEY"',
                ["upstream 'x': api_key_env is 'NO_KEY', but that variable is not set"],
            ),
            (
                'name = "x"\ndialect = "deepseek"\nmodel = "m"\napi_key_env = "BAD_KEY"',
                ["upstream 'x': the key of api_key_env (not shown): allowed is Latin-1"],
            ),
            (
                f'name = "x"\ndialect = "deepseek"\nmodel = "m"\napi_key_env = "{SECRET}"',
                ["upstream 'x': api_key_env (not shown): allowed is the name of a variable"],
            ),
            (
                f'name = "x"\ndialect = "ollama"\nmodel = "m"\napi_key = "{SECRET}"',
                ["upstream 'x': api_key does not belong in a file; api_key_env names"],
            ),
        ],
    )
    def test_a_bad_table_is_named_with_what_is_wrong(self, file: Path, table: str, expected: list[str]) -> None:
        file.write_text(f"[[upstream]]\n{table}\n")
        problems = problems_of({"UPSTREAMS_FILE": str(file), "BAD_KEY": f"{SECRET}\n{SECRET}", "EMPTY": ""})
        assert len(problems) == len(expected)
        for problem, part in zip(problems, expected, strict=True):
            assert problem.startswith("UPSTREAMS_FILE, upstream ")
            assert part in problem
            assert SECRET not in problem

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("", "but names no upstream: allowed are [[upstream]] tables"),
            ("upstream = []", "but names no upstream"),
            ("[upstream]\nname = 'x'", "but names no upstream"),
            ("upstream = ['x']", "but names no upstream"),
            (f"[[upstream]]\napi_key = {SECRET}", "which is not TOML: Invalid value (at line 2"),
            (f"[[upstream]]\n{SECRET}", "which is not TOML: "),
        ],
    )
    def test_a_bad_file_is_named(self, file: Path, content: str, expected: str) -> None:
        file.write_text(content)
        (problem,) = problems_of({"UPSTREAMS_FILE": str(file)})
        assert problem.startswith(f"UPSTREAMS_FILE is '{file}', ")
        assert expected in problem
        assert SECRET not in problem

    def test_one_that_cannot_be_read(self, file: Path) -> None:
        (problem,) = problems_of({"UPSTREAMS_FILE": str(file)})
        assert problem == f"UPSTREAMS_FILE is '{file}', which cannot be read: No such file or directory"
        file.write_bytes(b"\xff")
        assert problems_of({"UPSTREAMS_FILE": str(file)}) == (f"UPSTREAMS_FILE is '{file}', which is not UTF-8",)

    def test_names_are_unique(self, file: Path) -> None:
        file.write_text('[[upstream]]\nname = "x"\ndialect = "demo"\n' * 2)
        assert problems_of({"UPSTREAMS_FILE": str(file)}) == (
            "UPSTREAMS_FILE: 2 upstreams are named 'x'; each needs its own",
        )

    def test_other_tables_are_refused(self, file: Path) -> None:
        file.write_text('[upstreams]\n[[upstream]]\nname = "x"\ndialect = "demo"')
        (problem,) = problems_of({"UPSTREAMS_FILE": str(file)})
        assert problem.startswith("UPSTREAMS_FILE: unknown key 'upstreams'; ")

    def test_the_variables_of_a_single_upstream_are_refused_beside_it(self, file: Path) -> None:
        file.write_text('[[upstream]]\nname = "x"\ndialect = "demo"')
        mapping = dict.fromkeys(upstream_settings.VARIABLES, "http://x") | {"UPSTREAMS_FILE": str(file)}
        assert [problem.split()[:4] for problem in problems_of(mapping)] == [
            [variable, "is", "set", "beside"]
            for variable in upstream_settings.VARIABLES
            if variable not in {"UPSTREAM_API_KEY", "SYSTEM_PROMPT"}
        ]
