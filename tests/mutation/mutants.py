"""Mutants of the product's functions, each a whole module's text with one small mistake in it.

The operators are mutmut's; two coarser ones are added: a statement that calls something is left out, and a condition
holds always or never. Besides, every cell of the tables of transitions gets another entry. Left out is what only people
read: sentences, the arguments of notices and log lines, `__repr__`; and assertions, which are checks themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, WhitespaceInclusivePositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_arg_removal, operator_string

from actors import ledger
from mutation.mutant import Mutant, replaced
from orchestrator.protocol import transaction

ROOT = Path(__file__).resolve().parents[2]
TEXTS = frozenset({"Notice", "_notice", "_step_notice", "log_event", "__repr__"})
TABLES = (
    ("actors.ledger:TABLE", ledger.TABLE, tuple(ledger.Action)),
    ("actors.ledger:EXPIRED_TABLE", ledger.EXPIRED_TABLE, tuple(ledger.Action)),
    ("orchestrator.protocol.transaction:TRANSITIONS", transaction.TRANSITIONS, tuple(transaction.State)),
)


def mutants_of(paths: Iterable[Path]) -> list[Callable[[], Mutant]]:
    """All mutants of these files, and of the tables in them, each made when it is called."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    found = [make for module, path in modules.items() for make in _of_module(module, path)]
    return found + [make for make in _of_tables() if make().where.split(":")[0] in modules]


def _of_module(module: str, path: Path) -> Iterator[Callable[[], Mutant]]:
    wrapper = MetadataWrapper(cst.parse_module(path.read_text()))
    visitor = _Visitor()
    wrapper.visit(visitor)
    for function, place, new in visitor.found:
        yield partial(_made, f"{module}:{function}", wrapper.module, place, new)


def _made(where: str, module: cst.Module, place: CodeRange, new: cst.CSTNode) -> Mutant:
    """Put the new piece into the text: far quicker than to build the tree of the whole module anew."""
    lines = module.code.splitlines(keepends=True)
    start, end = place.start, place.end
    was = "".join(lines[start.line - 1 : end.line])
    tail = lines[end.line - 1][end.column :]
    becomes = lines[start.line - 1][: start.column] + module.code_for_node(new) + tail
    text = "".join([*lines[: start.line - 1], becomes, *lines[end.line :]])
    return Mutant(where, " ".join(was.split()), " ".join(becomes.split()), partial(replaced, where, text))


def _of_tables() -> Iterator[Callable[[], Mutant]]:
    for where, table, entries in TABLES:
        for cell, entry in table.items():
            for other in entries:
                if other is not entry:
                    was, becomes = f"{cell!r}: {entry}", f"{cell!r}: {other}"
                    yield partial(Mutant, where, was, becomes, partial(table.__setitem__, cell, other))


class _Visitor(cst.CSTVisitor):
    """Collects what could be replaced by what, and in which function."""

    METADATA_DEPENDENCIES = (WhitespaceInclusivePositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, CodeRange, cst.CSTNode]] = []  # function, place, what stands there instead
        self._path: list[str] = []
        self._depth = 0  # of functions

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, (cst.ClassDef, cst.FunctionDef)):
            if not self._depth:
                self._path.append(node.name.value)
            self._depth += isinstance(node, cst.FunctionDef)
            return _visited(node)
        if isinstance(node, (cst.Annotation, cst.Parameters, cst.Decorator, cst.Assert, cst.FormattedString)):
            return False
        if self._depth:
            for old, new in _replacements(node):
                place = self.get_metadata(WhitespaceInclusivePositionProvider, old)
                assert isinstance(place, CodeRange)
                self.found.append((".".join(self._path), place, new))
        return not (isinstance(node, cst.Call) and _called(node) in TEXTS | {"len", "isinstance"})

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, (cst.ClassDef, cst.FunctionDef)):
            self._depth -= isinstance(original_node, cst.FunctionDef)
            if not self._depth:
                self._path.pop()


def _visited(node: cst.ClassDef | cst.FunctionDef) -> bool:
    return node.name.value not in TEXTS


def _replacements(node: cst.CSTNode) -> Iterator[tuple[cst.CSTNode, cst.CSTNode]]:
    if isinstance(node, (cst.If, cst.While)):
        yield node.test, cst.Name("False")
        if isinstance(node, cst.If):
            yield node.test, cst.Name("True")
    if isinstance(node, cst.Expr) and isinstance(node.value, cst.Call):
        yield node, cst.Pass()
    for kind, operator in mutation_operators:
        if not isinstance(node, kind) or (operator is operator_string and _is_sentence(node)):
            continue
        for new in operator(node):
            if operator is not operator_arg_removal or not _told(node, new):
                yield node, new


def _told(call: cst.CSTNode, changed: cst.CSTNode) -> bool:
    """Whether a call has lost what only people read."""
    assert isinstance(call, cst.Call)
    assert isinstance(changed, cst.Call)
    if _called(call) in TEXTS | {"len", "isinstance"}:
        return True
    lost = next((a for a, b in zip(call.args, changed.args, strict=False) if a is not b), call.args[-1])
    return _is_sentence(lost.value)


def _is_sentence(node: cst.CSTNode) -> bool:
    if isinstance(node, (cst.FormattedString, cst.ConcatenatedString)):
        return True
    return isinstance(node, cst.SimpleString) and " " in node.value


def _called(node: cst.Call) -> str:
    name = node.func.attr if isinstance(node.func, cst.Attribute) else node.func
    return name.value if isinstance(name, cst.Name) else ""
