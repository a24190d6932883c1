"""The file that lists the models: TensorFlow Serving's text format, and the same as TOML."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from documents import ROOT
from thriftserve.errors import ConfigError, ExitCode
from thriftserve.repository.config_file import load, loads
from thriftserve.repository.image_settings import ImageSettings
from thriftserve.repository.model_settings import BatchingSettings, RunSettings
from thriftserve.repository.versions import All, Latest, ModelConfig, Specific, VersionPolicy


def of_one(fields: str) -> ModelConfig:
    """The only model of a file whose block has these fields besides name and base_path."""
    text = f"model_config_list {{ config {{ name: 'm' base_path: '/m' {fields} }} }}"
    (made,) = loads(text, "models.config").models
    return made


TWO = [ModelConfig("first", "tensorflow", "/models/first"), ModelConfig("second", "tensorflow", "/models/second")]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            """
model_config_list {
  config {
    name: 'first'
    base_path: '/models/first/'
    model_platform: 'tensorflow'
  }
  config {
    name: 'second'
    base_path: '/models/second/'
    model_platform: 'tensorflow'
  }
}
""",
            id="as the guide writes it",
        ),
        pytest.param(
            """model_config_list: {

  config: {
    name: "first",
    base_path: "/models/first",
    model_platform: "tensorflow"
  },
  config: {
    name: "second",
    base_path: "/models/second",
    model_platform: "tensorflow",
  },
}""",
            id="colons and commas",
        ),
        pytest.param(
            "model_config_list: { config: { name: 'first', base_path: '/models/first', model_type: TENSORFLOW },"
            " config: { name: 'second'; base_path: '/models/second'; model_type: 1; }; }",
            id="model_type, one line, semicolons",
        ),
        pytest.param(
            'model_config_list < config: [ { name: "fi" \'rst\' base_path: "/models/\\146irst" },\n'
            "< name: 'second' base_path: # here\n '/models/' # and\n 'second\\x00'[0] > ] >".replace("\\x00'[0]", "'"),
            id="angle braces, a list of blocks, adjacent strings, escapes, comments",
        ),
        pytest.param(
            "\ufeffmodel_config_list {\r\nconfig { name:'first' base_path:'/models/first' }\r\n"
            "config { name:'second' base_path:'/models/second' model_version_policy {} } }\r\n",
            id="a byte order mark and Windows' line ends",
        ),
        pytest.param(
            "; model_config_list {, config [ {; name: 'first',, base_path: '/models/first' },"
            " { name: 'second' base_path: '/models/second' model_version_policy { latest { } } }, ] };",
            id="separators where there is nothing to separate, a list without a colon",
        ),
    ],
)
def test_two_models_however_they_are_written(text: str) -> None:
    """Every way in which such files are written gives the same two models."""
    assert list(loads(text, "models.config").models) == TWO


@pytest.mark.parametrize(
    ("written", "policy"),
    [
        ("", Latest(1)),
        ("model_version_policy {}", Latest(1)),
        ("model_version_policy { latest {} }", Latest(1)),
        ("model_version_policy { latest { num_versions: 2 } }", Latest(2)),
        ("model_version_policy: { latest: { num_versions: 0x10 } }", Latest(16)),
        ("model_version_policy { latest { num_versions: 0 } }", Latest(1)),
        ("model_version_policy: {all: {}}", All()),
        ("model_version_policy { all <> }", All()),
        ("model_version_policy { specific { versions: 42 } }", Specific((42,))),
        ("model_version_policy { specific { versions: 3 versions: [1, 2], versions: 1 } }", Specific((1, 2, 3))),
        ("model_version_policy { specific { versions: -9223372036854775808 } }", Specific((-(2**63),))),
        ("model_version_policy { specific { versions: 9223372036854775807 } }", Specific((2**63 - 1,))),
    ],
)
def test_policies(written: str, policy: VersionPolicy) -> None:
    """Each policy is read; nothing said is the newest version alone."""
    assert of_one(written).policy == policy


def test_labels() -> None:
    """Labels are read beside the policy that serves their versions; where the policy can serve any, to any version."""
    both = "version_labels { key: 'stable' value: 42 } version_labels: { key: \"canary\", value: 43, }"
    assert of_one(f"model_version_policy {{ specific {{ versions: [42, 43] }} }} {both}").labels == {
        "stable": 42,
        "canary": 43,
    }
    assert of_one(both).labels == {"stable": 42, "canary": 43}


def test_own_fields() -> None:
    """batching, session and image are those of model.toml and image.toml; workers, devices and warmup stand beside."""
    made = of_one(
        "batching { max_batch_size: 8 batch_timeout_ms: 1.5 allowed_batch_sizes: 4 allowed_batch_sizes: 8"
        " pad_variable_length_inputs: true max_enqueued: 9 }"
        " image { fit: crop height: 10 scale: [0.5, 1, 2] offset: -1 channels: 3 input: 'x' }"
        " session { runs_per_worker: 2 } workers: 3 devices: 'gpu:0,gpu:1' warmup: false"
    )
    assert made.batching == BatchingSettings(8, 1.5, (4, 8), True, 9)
    assert made.image == ImageSettings("x", 10, channels=3, scale=(0.5, 1, 2), offset=-1, fit="crop")
    assert made.session == RunSettings(3, 2)
    assert (made.devices, made.warmup) == ("gpu:0,gpu:1", False)
    assert of_one("image { fit: 'crop' resample: bicubic input: x scores: 'p' }").image == ImageSettings(
        "x", fit="crop", resample="bicubic", scores="p"
    )
    assert of_one("batching { allowed_batch_sizes: 4 }").batching == BatchingSettings(allowed_batch_sizes=(4,))
    assert of_one("image { scale: 2 background: [1,2,3] }").image == ImageSettings(scale=2, background=(1, 2, 3))


def test_python_models_and_urls() -> None:
    """A class is a base path of the platform python; a URL stays one."""
    text = """model_config_list {
      config { name: 'p' base_path: 'python:package.module:Class?size=8' model_platform: 'python' }
      config { name: 'q' base_path: 'package.module:Class' model_platform: 'python' }
      config { name: 'r' base_path: 's3://bucket/models/r/' } }"""
    p, q, r = loads(text, "models.config").models
    assert p == ModelConfig("p", "python", "package.module:Class?size=8")
    assert q.source == "package.module:Class"
    assert (r.source, r.remote, p.remote) == ("s3://bucket/models/r", True, False)


def test_logging_config_is_told() -> None:
    """What has no effect here is read over, whatever is in it, and told with its line."""
    text = """model_config_list { config { name: 'm' base_path: '/m'
      logging_config { log_collector_config { type: 'x' [a.b/c] { y: 1 } } sampling_config < sampling_rate: .1f > }
    } }"""
    made = loads(text, "models.config")
    assert made.warnings == ("models.config:2:7: logging_config has no effect here and is ignored",)
    assert [one.name for one in made.models] == ["m"]


WHOLE_TOML = """
[[model]]
name = "digits"
base_path = "/models/digits"
model_version_policy.specific.versions = [42, 43]
version_labels = {stable = 42, canary = 43}
warmup = false

[model.batching]
max_batch_size = 8
allowed_batch_sizes = [4, 8]

[[model]]
name = "other"
base_path = "/models/other"
workers = 2
"""


def test_toml_says_the_same() -> None:
    """TOML tables give what the text format gives."""
    text = """model_config_list {
      config { name: 'digits' base_path: '/models/digits' model_version_policy { specific { versions: [42, 43] } }
        version_labels { key: 'stable' value: 42 } version_labels { key: 'canary' value: 43 } warmup: false
        batching { max_batch_size: 8 allowed_batch_sizes: [4, 8] } }
      config { name: 'other' base_path: '/models/other' workers: 2 } }"""
    assert loads(WHOLE_TOML, "models.toml", toml=True) == loads(text, "models.config")


def test_the_name_tells_the_format(tmp_path: Path) -> None:
    """A name that ends in .toml is TOML, every other the text format; a relative path is told as it may be meant."""
    (tmp_path / "models.toml").write_text(WHOLE_TOML)
    assert len(load(tmp_path / "models.toml").models) == 2
    (tmp_path / "models.config").write_text("model_config_list { config { name: 'a' base_path: 'models/a' } }")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "models.config")
    assert repr(str(tmp_path / "models/a")) in caught.value.message
    assert caught.value.exit_code == ExitCode.CONFIG


def test_empty_list_is_no_mistake() -> None:
    """A file may list no model; one that says nothing at all is refused."""
    assert loads("model_config_list {}", "models.config").models == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "1:1: there is no model_config_list: write"),
        ("improperly formatted file", "1:1: unknown key 'improperly' in the file: use one of model_config_list"),
        ("model_config_list formatted file", "1:19: found 'formatted', expected \"{\""),
        ("custom_model_config { [type.googleapis.com/x] { a: 1 } }", "1:1: custom_model_config is not supported"),
        ("model_config_lst {}", "1:1: unknown key 'model_config_lst' in the file: did you mean 'model_config_list'?"),
        ("model_config_list {\n  config {\n    name: 'a'\n", "3:11: the file ends inside a block"),
        ("model_config_list {\n  config {\n    name: 'a'\n", "close the '{' of line 2"),
        ("model_config_list { > }", "found '>', expected a key"),
        ("model_config_list {} }", "1:22: found '}', expected a key"),
        ("model_config_list { config: [ {} {} ] }", "1:34: found '{', expected \",\""),
        ("model_config_list { config { name: 'a\n' } }", "1:36: a string that begins with ' does not end on its line"),
        ("model_config_list { config { name: 'a\\q' } }", "holds '\\\\q', which is no escape"),
        ("model_config_list { config { name: a } }", "name = a: a string is expected, in quotes"),
        ("model_config_list { config { name: } }", "found '}', expected a value of 'name'"),
        ("model_config_list { config { name = 'a' } }", "found '=', expected \":\""),
        ("model_config_list { config: 3 }", "config = 3: a block is expected: config { … }"),
        ("model_config_list {} model_config_list {}", "model_config_list takes one value: give it once"),
        ("model_config_list { config { logging_config " + "{ a" * 5000, "the file ends inside a block"),
        ("model_config_list { config { workers: 12b } }", "workers = 12b: a whole number of at most 64 bits"),
    ],
)
def test_mistakes_of_the_format(text: str, told: str) -> None:
    """What is not of the format is one error that says where, what was found and what was expected."""
    with pytest.raises(ConfigError) as caught:
        loads(text, "models.config")
    assert caught.value.message.startswith("models.config:")
    assert told in caught.value.message


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ("base_pth: '/x'", "3:1: unknown key 'base_pth' in a model's block: did you mean 'base_path'?"),
        ("zebra: 1", "3:1: unknown key 'zebra' in a model's block: use one of name, base_path"),
        ("name: 'n'", "3:1: name takes one value"),
        ("model_platform: 'pytorch'", "3:1: model 'm': model_platform is 'pytorch': write 'tensorflow' or 'python'"),
        ("model_type: OTHER", "model_type = OTHER: write model_platform: 'tensorflow' instead"),
        ("model_platform: 'python' model_type: TENSORFLOW", "leave model_type out"),
        ("model_version_policy { newest {} }", "unknown key 'newest' in model_version_policy: use one of latest, all"),
        ("model_version_policy { latest {} all {} }", "has latest and all: give one of them, once"),
        ("model_version_policy { latest: 2 }", "latest = 2: a block is expected: latest { … }"),
        ("model_version_policy { latest { versions: 2 } }", "did you mean 'num_versions'?"),
        ("model_version_policy { latest { num_versions: 'two' } }", "num_versions = 'two': a whole number from 0"),
        ("model_version_policy { latest { num_versions: -1 } }", "num_versions = -1: a whole number"),
        ("model_version_policy { latest { num_versions: [1] } }", "num_versions takes one value"),
        ("model_version_policy { all { n: 1 } }", "unknown key 'n' in all: it has no keys, remove it"),
        ("model_version_policy { specific {} }", "specific names no versions: write versions: 42"),
        ("model_version_policy { specific { versions: 1.5 } }", "versions = 1.5: a whole number"),
        ("model_version_policy { specific { versions: 9223372036854775808 } }", "versions = 9223372036854775808: a"),
        ("model_version_policy { specific { versions: 00123 } }", "00123 begins with 0, which means octal here"),
        ("version_labels { key: 'a' }", "a label has a key and a value"),
        ("version_labels { value: 3 }", "a label has a key and a value"),
        ("version_labels { key: 'a' value: 'b' }", "value = 'b': a whole number"),
        ("version_labels { key: 'a' value: 1 } version_labels { key: 'a' value: 2 }", "has the label 'a' twice"),
        (
            "model_version_policy { specific { versions: [1, 2] } }\nversion_labels { key: 'a'\nvalue: 3 }",
            "5:1: model 'm': the label 'a' points at version 3, which the policy does not serve: add it to specific",
        ),
        ("batching { max_batch_sise: 4 }", "unknown key 'max_batch_sise' in batching: did you mean 'max_batch_size'?"),
        ("batching { max_batch_size: 0 }", "max_batch_size = 0: give a whole number from 1"),
        ("batching { max_batch_size: [1, 2] }", "max_batch_size takes one value: give it once, and no list"),
        ("batching { max_batch_size { value: 3 } }", "max_batch_size is a block: a value is expected"),
        ("image { fit: squash }", "fit = 'squash': give one of stretch, crop, pad"),
        ("image { scale: [1, 2, 3] channels: 1 }", "scale = [1.0, 2.0, 3.0] has 3 numbers and channels is 1"),
        ("workers: 0", "workers = 0: give a whole number from 1"),
        ("workers: 2 session { workers: 2 }", "workers is given here and in session: give it once"),
        ("devices: 'tpu:0'", "devices = 'tpu:0': write cpu, auto or a list like gpu:0,gpu:1"),
        ("warmup: 'yes'", "warmup = 'yes': true or false is expected"),
    ],
)
def test_mistakes_in_a_model(fields: str, told: str) -> None:
    """What will not do is one error with line, column, value and remedy."""
    with pytest.raises(ConfigError) as caught:
        loads(
            f"model_config_list {{ config {{\nname: 'm' base_path: '/m'\n{fields}\n}} }}",
            "models.config",
        )
    assert caught.value.message.startswith("models.config:")
    assert told in caught.value.message


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ("base_path: '/a'", "1:21: the model has no name"),
        ("name: 'a b' base_path: '/a'", "the name 'a b' must be 1 to 128 letters"),
        ("name: 'a'", "model 'a' has no base_path"),
        ("name: 'a' base_path: 'python:a:B'", "names a class: write model_platform: 'python' too"),
        (
            "name: 'a' base_path: '/a' } config { name: 'a' base_path: '/b'",
            "model 'a' is in the file already, at line 1",
        ),
    ],
)
def test_mistakes_in_the_list(block: str, told: str) -> None:
    """A model without name or path, and one that is there twice."""
    with pytest.raises(ConfigError) as caught:
        loads(f"model_config_list {{ config {{ {block} }} }}", "models.config")
    assert told in caught.value.message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[model]\n", "models.toml:1:8: not valid TOML"),
        ("a = " + "[" * 5000, "tables or lists are nested too deep"),
        ("[models]\n", "models.toml:1:1: unknown key 'models': write one [[model]] table"),
        ("[model]\nname = 'a'\n", "models.toml:1:1: model is no list of tables"),
        ("[[model]]\nname = 'a'\nbase_path = 'x'\n", "models.toml:3:1: base_path = 'x' is relative"),
        (
            "# first\n[[model]]\nname = 'a'\nbase_path = '/a'\n\n[[model]]\nname = 'b'\nbase_path = '/b'\n"
            "[model.batching]\nmax_batch_size = 'x'\n",
            "models.toml:10:1: max_batch_size = 'x': a whole number",
        ),
        ("[[model]]\nname = 'a'\nbase_path = '/a'\nworkers = [1, 2]\n", "models.toml:4:1: workers takes one value"),
        (
            "[[model]]\nname = 'a'\nbase_path = '/a'\nversion_labels = { stable = 1, canary = 'x' }\n",
            "models.toml:4:32: value = 'x'",
        ),
        (
            "[[model]]\nname = 'a'\nbase_path = '/a'\n\n  [model.model_version_policy.latest]\n  num = 1\n",
            "models.toml:6:3: unknown key 'num' in latest: use one of num_versions",
        ),
        (
            "[[model]]\nname = 'a'\nbase_path = '/a'\nmodel_type = 'KERAS'\n",
            "one of MODEL_TYPE_UNSPECIFIED, TENSORFLOW",
        ),
        ("[[model]]\nname = 'a'\nbase_path = '/a'\nimage = 3\n", "models.toml:4:1: image = 3: a block is expected"),
        ("[[model]]\nname = 'a'\nbase_path = '/a'\nversion_labels.stable = '1'\n", "models.toml:4:1: value = '1'"),
        (
            "[[model]]\nname = 'a'\nbase_path = '/a'\n[[model]]\nname = 'a'\nbase_path = '/a'\n",
            "models.toml:4:1: model",
        ),
    ],
)
def test_mistakes_in_toml(text: str, told: str) -> None:
    """TOML's mistakes have their line and column too, though its reader keeps none."""
    with pytest.raises(ConfigError) as caught:
        loads(text, "models.toml", toml=True)
    assert told in caught.value.message


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    """A file that is not there, or no text, is named."""
    with pytest.raises(ConfigError, match=r"gone\.config: can't be read"):
        load(tmp_path / "gone.config")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is no UTF-8 text"):
        load(tmp_path / "binary")


def test_the_documented_files_say_the_same() -> None:
    """The two examples of docs/reference/models.md load, and are one configuration."""
    page = (ROOT / "docs/reference/models.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", page, re.MULTILINE)
    (text,) = [one for one in blocks if one.lstrip().startswith("model_config_list {")]
    (toml,) = [one for one in blocks if one.lstrip().startswith("[[model]]")]
    (made,) = loads(text, "models.config").models
    assert made.labels == {"stable": 42, "canary": 43}
    assert loads(textwrap.dedent(toml), "models.toml", toml=True).models == (made,)
