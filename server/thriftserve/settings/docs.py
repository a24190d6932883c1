"""Generates docs/reference/settings.md, the reference of all settings, from the code.

::

    ServeSettings, GatewaySettings  -->  page()  -->  docs/reference/settings.md

    python -m thriftserve.settings.docs > docs/reference/settings.md
    python -m thriftserve.settings.docs --check docs/reference/settings.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from thriftserve.settings.field import Setting, Settings, settings_of
from thriftserve.settings.gateway import GatewaySettings
from thriftserve.settings.serve import ServeSettings
from thriftserve.settings.sources import format_value

_HEAD = """\
# Settings

<!-- Written by `make docs` from host.py, serve.py and gateway.py in server/thriftserve/settings: change it there. -->

Each setting can be given in four places. A later one wins:

1. its default,
2. a TOML file, named by `--config FILE` or `THRIFTSERVE_CONFIG`,
3. an environment variable; an empty one counts as not set,
4. a flag of `thriftserve serve`.

`thriftserve serve --print-settings …` prints every effective value and its source, and exits.

| | TOML | environment | flag |
|---|---|---|---|
| a number | `read_timeout_s = 10` | `THRIFTSERVE_READ_TIMEOUT_S=10` | `--read-timeout-s 10` |
| yes or no | `warmup = false` | `THRIFTSERVE_WARMUP=false` | `--no-warmup` |
| a list | `model = ["a=/m/a", "b=/m/b"]` | `THRIFTSERVE_MODEL=a=/m/a,b=/m/b` | `--model a=/m/a --model b=/m/b` |

A file may also list its models in a table:

```toml
port = 9090
server_type = "TProcessPoolServer"

[models]
digits = "/models/digits"
echo = "python:my_package.models:Echo"
```

An unknown name, or a value of the wrong type or out of range, ends the server at once with exit code 2. The message
names the source, the setting, the value and the remedy. Variables that a container platform sets for a service called
`thriftserve` (`THRIFTSERVE_SERVICE_HOST`, `THRIFTSERVE_PORT=tcp://…`) are ignored.
"""

_GATEWAY = """
## The gateway

`thriftserve gateway` has its own settings, given in the same four places. Its variables are `THRIFTSERVE_GATEWAY_…`
(`THRIFTSERVE_GATEWAY_BACKEND=10.0.0.1:9090,10.0.0.2:9090`), and `THRIFTSERVE_GATEWAY_CONFIG` names its file. `serve`
and `gateway` each ignore the variables of the other, so both can have the same environment.

If `serve --rest-port` starts the gateway, its backend, its address and its limits of size and time follow from the
server's settings of the same meaning. The others come from the gateway's variables.
"""


def page() -> str:
    """Return the page, as Markdown."""
    return "".join([_HEAD, *_tables(ServeSettings, "##"), _GATEWAY, *_tables(GatewaySettings, "###")])


def _tables(cls: type[Settings], level: str) -> Iterator[str]:
    """Yield the tables of a settings class, one per group."""
    rows = sorted(settings_of(cls), key=lambda setting: setting.info.group.lower())
    for group, members in groupby(rows, key=lambda setting: setting.info.group):
        title = group[0].upper() + group[1:]
        yield f"\n{level} {title}\n\n| setting | default | unit or values | description |\n|---|---|---|---|\n"
        yield from map(_row, members)


def _row(setting: Setting) -> str:
    values = ", ".join(f"`{choice}`" for choice in setting.info.choices) or setting.info.unit
    default = format_value(setting.default)
    quoted = default if default == "unset" else f"`{default}`"
    return f"| `{setting.name}` | {quoted} | {values} | {setting.info.help} |\n".replace("|  |", "| |")


def main(arguments: list[str]) -> int:
    """Print the page. With `--check FILE`, return 1 if the file is not that page."""
    if arguments[:1] != ["--check"]:
        print(page(), end="")
        return 0
    path = Path(arguments[1])
    if path.exists() and path.read_text(encoding="utf-8") == page():
        return 0
    print(f"{path} is out of date: run 'make docs' and commit the result", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
