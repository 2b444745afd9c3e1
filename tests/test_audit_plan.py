# SPDX-License-Identifier: Apache-2.0
"""What an audit refuses before it loads a model, and what it makes of its arguments."""

import json

import pytest
from fusedraw.__main__ import main
from fusedraw.audit import plan as plans
from fusedraw.audit.plan import AuditError, make_plan

PROMPTS = ["one", "two", "three"]


def test_the_default_changes_one_thing_at_a_time():
    plan = make_plan(PROMPTS, base={"threads": 1})
    changes = {c.name: c.changes(plan.base) for c in plan.conditions[1:]}
    assert set(changes) | set(plan.left_out) == {
        "seed",
        "batch",
        "threads",
        "dtype",
        "temperature",
        "mix_eps",
    }
    assert all(changed == [name] for name, changed in changes.items())
    assert plan.left_out == ("threads",)  # the base has one thread already


def test_groups_hold_every_prompt_once_and_the_largest_batch():
    plan = make_plan([str(n) for n in range(11)], conditions={"wide": {"batch": 5}})
    assert [list(g) for g in plan.groups()] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"conditions": {"x": {"temperatures": 1}}}, "did you mean temperature"),
        ({"conditions": {"x": {"temperature": -1}}}, "condition 'x': temperature must be"),
        ({"conditions": {"x": {"temperature": "hot"}}}, "temperature must be a number, got 'hot'"),
        ({"conditions": {"x": {"top_p": 1.5}}}, "top_p must be"),
        ({"conditions": {"x": {"mix_support": "some"}}}, "mix_support must be 'kept' or 'valid'"),
        ({"conditions": {"x": {"batch": 0}}}, "batch must be 1 to 256, got 0"),
        ({"conditions": {"x": {"batch": 2.5}}}, "batch must be a whole number"),
        ({"conditions": {"x": {"threads": 4096}}}, "what this process may use, got 4096"),
        ({"conditions": {"x": {"dtype": "int8"}}}, "dtype must be float32, bfloat16, float16, got 'int8'"),
        ({"conditions": {"x": {"device": "cuda:7"}}}, "device cuda:7, but torch sees"),
        ({"conditions": {"x": {"device": "tpu"}}}, "device must be cpu or cuda"),
        ({"conditions": {"x": {"perturb": "reverse"}}}, "perturb must be"),
        ({"conditions": {"x": {"perturb": "synonyms"}}}, "needs a list of synonyms"),
        ({"conditions": {"x": {}}}, "changes nothing"),
        ({"conditions": {"base": {"seed": 3}}}, "is there twice"),
        ({"conditions": {"a:b": {"seed": 3}}}, "name must not"),
        ({"conditions": {"x": 3}}, "must map settings"),
        ({"base": {"seed": -1}}, "the base: seed must be 0 to"),
        ({"max_new_tokens": 0}, "max_new_tokens must be 1 to 4096, got 0"),
    ],
)
def test_bad_settings_are_named(given, said):
    with pytest.raises(AuditError, match=said):
        make_plan(PROMPTS, **given)


def test_prompts_come_as_lines_or_json(tmp_path):
    files = {
        "a.txt": "one\n\n  two \nthree\n",
        "b.jsonl": '{"prompt": "one"}\n"two"\n\n{"text": "three"}\n',
        "c.json": json.dumps(PROMPTS),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert plans.read_prompts(tmp_path / name) == PROMPTS


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.txt", b"", "holds no prompts"),
        ("a.txt", b"\n \n", "holds no prompts"),
        ("a.txt", b"ok\n\xff\xfe", "not UTF-8: byte 3"),
        ("a.jsonl", b'{"prompt": "x"}\n{"prompt": 3}\n', "line 2: expected a text"),
        ("a.jsonl", b'{"prompt": "x"\n', "line 1 is not JSON"),
        ("a.json", b'{"prompt": "x"}', "expected a list of prompts, got dict"),
    ],
)
def test_bad_prompts_are_an_error_with_the_line(tmp_path, name, data, said, capsys):
    path = tmp_path / name
    path.write_bytes(data)
    assert main(["audit", "--prompts", str(path), "--output", str(tmp_path / "out"), "--format", "text"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("conditions: [1]", "conditions must be a mapping"),
        ("condition: {}", "nothing is named 'condition'"),
        ("- 1", "must map"),
        ("a: [", "is not YAML"),
        ("synonyms: [[a, b, c]]", "list of pairs"),
        ("chat: 3", "chat must be true or false"),
    ],
)
def test_bad_plans(tmp_path, text, said, capsys):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    assert main(["audit", "--plan", str(path), "--output", str(tmp_path / "out"), "--format", "text"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no/such/model"], "neither a model folder nor a .gguf file"),
        (["{empty}"], "holds no config.json"),
        (["{junk}"], "not a GGUF file"),
        (["--prompts", "no/such/file"], "cannot read"),
        (["--condition", "cold"], "--condition takes NAME:setting=value"),
        (["-c", "x:seed=2", "-c", "x:seed=3"], "'x' is there twice"),
        (["--base", "seed"], "--base takes setting=value"),
        (["--fail-on", "agreement"], "--fail-on takes METRIC<NUMBER"),
        (["--fail-on", "agreement:bach<0.5"], "did you mean agreement:batch"),
        (["--embedder", "no_module_here:f"], "no_module_here"),
        (["--redact", "--nli", "json:dumps"], "need the texts"),
        (["--mc-dropout", "1.5"], "--mc-dropout must be in"),
        (["--bias", "no/such/file"], "--bias"),
        (["--report-only"], "holds no audit"),
    ],
)
def test_bad_arguments_exit_with_2_before_any_work(tmp_path, arguments, said, capsys):
    pytest.importorskip("transformers", reason="needs transformers: pip install -r requirements-demo.txt")
    pytest.importorskip("gguf", reason="needs gguf: pip install -r requirements-demo.txt")
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.gguf").write_bytes(b"junk")
    places = {"{empty}": str(tmp_path / "empty"), "{junk}": str(tmp_path / "junk.gguf")}
    arguments = [places.get(a, a) for a in arguments]
    assert main(["audit", *arguments, "--output", str(tmp_path / "out"), "--format", "text"]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_conditions_of_the_command_line(tmp_path):
    assert plans.parse_condition("cold:temperature=0.2,top_k=40,dtype=bfloat16") == (
        "cold",
        {"temperature": 0.2, "top_k": 40, "dtype": "bfloat16"},
    )


def test_a_base_that_has_what_a_default_condition_changes_leaves_it_out():
    plan = make_plan(PROMPTS, base={"batch": 1, "dtype": "bfloat16"})
    assert {"batch", "dtype"} <= set(plan.left_out)
    assert not {"batch", "dtype"} & {condition.name for condition in plan.conditions}
