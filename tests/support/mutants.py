"""Change the code a little, many times, and see whether the tests notice: `make mutants`.

    PACKAGES --a seeded sample--> mutants --each in a copy of the tree, its package's tests--> killed | survived

A mutant is one comparison, boolean operator, sign or negation turned round. Tests that let it pass say nothing about
that line. Mutants that no test can tell from the original (they mean the same) are listed in mutants_equal.txt.
"""

from __future__ import annotations

import argparse
import ast
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
EQUAL = Path(__file__).with_name("mutants_equal.txt")
#: What is changed, and the tests that must notice.
PACKAGES = {
    "server/thriftserve/rpc": [
        "tests/unit/rpc",
        "tests/integration/servers/test_header.py",
        "tests/integration/servers/test_wire.py",
    ],
    "server/thriftserve/batching": ["tests/unit/batching", "tests/integration/batching/test_batched_saved.py"],
    "server/thriftserve/servers/batching": ["tests/unit/servers", "tests/integration/batching"],
    "server/thriftserve/service": ["tests/unit/service", "tests/unit/rpc"],
    "server/thriftserve/controller": ["tests/unit/controller", "tests/integration/controller/test_control_port.py"],
    "client/thriftserve_client/wire": ["tests/unit/client", "tests/unit/rpc", "tests/integration/servers/test_wire.py"],
}
#: Killed mutants, as a part of all, that the tests must reach.
WANTED = 0.85
#: Seconds for the tests of one mutant; one that makes them hang is killed by that.
TIMEOUT_S = 600

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip


class Mutant(NamedTuple):
    """One change of one expression."""

    path: Path
    line: int
    before: str
    after: str
    #: Byte offsets of the expression in the file.
    start: int
    end: int

    @property
    def key(self) -> str:
        """Its name in mutants_equal.txt: lines move, expressions don't."""
        return f"{self.path}: {self.before} -> {self.after}"


def mutants(path: Path) -> Iterator[Mutant]:
    """Yield every mutant of a file."""
    source = (ROOT / path).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in _code(ast.parse(source)):
        for changed in _changes(node):
            start, end = (starts[row - 1] + column for row, column in _span(node))
            before = source[start:end].decode()
            yield Mutant(path, node.lineno, " ".join(before.split()), ast.unparse(changed), start, end)


def _span(node: ast.expr) -> tuple[tuple[int, int], tuple[int, int]]:
    assert node.end_lineno is not None and node.end_col_offset is not None
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _code(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield expressions that decide something: no annotations, no logging, nothing for the type checker alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("log.", "logger.")):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Assert):
            continue
        if isinstance(node, ast.arg):
            continue
        if isinstance(node, ast.AnnAssign):
            if node.value is not None:
                yield from _code(ast.Module([ast.Expr(node.value)], []))
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _code(ast.Module([*node.body, *map(ast.Expr, node.args.defaults)], []))
            continue
        if isinstance(node, ast.expr):
            yield node
        yield from _code(node)


def _changes(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield ast.Compare(node.left, [_COMPARISONS[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        yield ast.BinOp(node.left, ast.Sub() if isinstance(node.op, ast.Add) else ast.Add(), node.right)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node.operand


class Copy:
    """A copy of the tree with an environment of its own, over the packages of this one."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "tree"
        skipped = shutil.ignore_patterns(".venv", ".git", "__pycache__", "*.egg-info", "results", ".mypy_cache")
        shutil.copytree(ROOT, self.root, ignore=skipped, symlinks=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.root / ".venv"], check=True)
        self.python = self.root / ".venv" / "bin" / "python"
        site = Path(
            subprocess.check_output(
                [self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
            ).strip()
        )
        (site / "packages.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        for tree in ("server", "client", "bench", "gen-py", "examples"):
            (site / f"aaa-{tree}.pth").write_text(f"{self.root / tree}\n")
        for name in ("thriftserve", "thriftserve-client", "thriftserve-bench"):
            module = name.replace("-", "_")
            script = self.python.with_name(name)
            script.write_text(f"#!{self.python}\nimport sys\nfrom {module}.cli import main\nsys.exit(main())\n")
            script.chmod(0o755)

    def survives(self, mutant: Mutant, tests: Sequence[str]) -> bool:
        """Return whether the tests pass with a mutant in the code."""
        path = self.root / mutant.path
        source = path.read_bytes()
        path.write_bytes(source[: mutant.start] + b"(" + mutant.after.encode() + b")" + source[mutant.end :])
        try:
            return self.passes(tests)
        finally:
            path.write_bytes(source)

    def passes(self, tests: Sequence[str]) -> bool:
        """Return whether tests pass; the first failure ends them."""
        options = ["-q", "-x", "-n", "2", "--dist", "loadfile", "--timeout", "60"]
        command = [str(self.python), "-m", "pytest", *options, *tests]
        try:
            done = subprocess.run(command, cwd=self.root, capture_output=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


def equal_mutants() -> set[str]:
    """Return the keys of mutants that mean the same as the original; a `#` begins the reason."""
    if not EQUAL.exists():
        return set()
    lines = EQUAL.read_text(encoding="utf-8").splitlines()
    return {line.partition("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")}


def sample(packages: list[str], count: int, seed: int) -> list[tuple[Mutant, Sequence[str]]]:
    """Return so many mutants of packages, chosen by a seed, each with the tests that must notice it."""
    known = equal_mutants()
    chosen: list[tuple[Mutant, Sequence[str]]] = []
    for package in packages:
        files = sorted((ROOT / package).rglob("*.py"))
        every = [mutant for file in files for mutant in mutants(file.relative_to(ROOT)) if mutant.key not in known]
        some = random.Random(f"{seed} {package}").sample(every, min(len(every), count))
        chosen += [(mutant, PACKAGES[package]) for mutant in some]
    return chosen


def main() -> int:
    """Run the command; 1 where too many mutants survive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10, help="mutants of each package (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="chooses them (%(default)s)")
    parser.add_argument("packages", nargs="*", default=list(PACKAGES), help="of: %(default)s")
    flags = parser.parse_args()
    chosen = sample(flags.packages, flags.count, flags.seed)
    survivors: list[Mutant] = []
    with tempfile.TemporaryDirectory(prefix="thriftserve-mutants-") as directory:
        copy = Copy(Path(directory))
        for paths in {tuple(tests) for _, tests in chosen}:
            if not copy.passes(paths):
                print(f"the tests fail without a mutant: {' '.join(paths)}", file=sys.stderr)
                return 2
        for number, (mutant, tests) in enumerate(chosen, 1):
            began = time.monotonic()
            survived = copy.survives(mutant, tests)
            survivors += [mutant] if survived else []
            word = "SURVIVED" if survived else "killed"
            where = f"{mutant.path}:{mutant.line}: {mutant.before} -> {mutant.after}"
            print(f"{number}/{len(chosen)} {word} in {time.monotonic() - began:.0f} s  {where}", flush=True)
    killed = 1 - len(survivors) / max(1, len(chosen))
    print(f"{killed:.0%} of {len(chosen)} mutants killed (wanted: {WANTED:.0%}); survivors:")
    for mutant in survivors:
        print(f"  {mutant.path}:{mutant.line}: {mutant.before} -> {mutant.after}")
    return 0 if killed >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
