"""Expressions of rules: a precedence parser that makes closures. Nothing is executed but what is written here.

``or`` binds least, then ``and``, ``not``, comparisons (they do not chain), ``+ -``, ``* /``, the sign. A number is absent (None) where its
metric was not reported so far or its window is not full; what is computed from an absent number is absent, a comparison with one too.
``and``, ``or`` and ``not`` are those of three values (Kleene): ``no and absent`` is no, ``yes or absent`` is yes. NaN compares as floating
point has it: every comparison is no, ``!=`` is yes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from keel.watch.expressions.tokens import ExpressionError, Token, tokens
from keel.watch.expressions.windows import WINDOWS, Count, Memory, Whole, divided, window
from keel.watch.names import direction, nearest

Value = float | None  # truths are 1.0 and 0.0
COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
FUNCTIONS = (*WINDOWS, "first", "best", "age", "absent", "finite", "count", "either")
_OPTIONAL = frozenset({"mean", "min", "max", "count"})  # without n: over the whole run


@dataclass(slots=True)
class Scope:
    """What an expression is judged on: the newest value of each metric, what the row at hand reported, when each was last reported."""

    values: dict[str, float] = field(default_factory=dict[str, float])
    row: frozenset[str] = frozenset()
    step: int = 0
    reported: dict[str, int] = field(default_factory=dict[str, int])
    settings: Mapping[str, float | None] = field(default_factory=dict[str, "float | None"])

    def take(self, step: int, metrics: Mapping[str, float]) -> None:
        """The next row: a step's or an evaluation's metrics."""
        self.values.update({name: float(value) for name, value in metrics.items()})
        self.row, self.step = frozenset(metrics), step
        self.reported.update(dict.fromkeys(metrics, step))


@dataclass(frozen=True, slots=True)
class Node:
    """A part of an expression: its kind, how it is evaluated, which metrics it reads."""

    kind: Literal["number", "truth"]
    run: Callable[[Scope], Value]
    names: frozenset[str]
    start: int
    one: str = ""  # the metric's name, where it is nothing else


@dataclass(slots=True)
class Expression:
    """An expression that can be asked again and again. ``names``: metrics it reads; ``always``: asked at every row, because it asks what
    is not there."""

    text: str
    root: Node
    names: frozenset[str]
    settings: frozenset[str]
    always: bool
    memories: list[Memory]

    def value(self, scope: Scope) -> Value:
        """What it says of ``scope``: 1 yes, 0 no, None absent."""
        return self.root.run(scope)

    def state(self) -> list[Any]:
        """For a checkpoint (JSON)."""
        return [memory.state() for memory in self.memories]

    def load_state(self, state: list[Any]) -> None:
        """Go on from ``state()``. Raises ValueError where it is that of another expression."""
        for memory, kept in zip(self.memories, state, strict=True):
            memory.load_state(kept)


def parse(text: str, replace: Mapping[str, str] | None = None) -> Expression:
    """Read a condition. ``replace``: a metric's name for a pattern. Raises ExpressionError with the place and what to write instead."""
    parser = _Parser(text, dict(replace or {}))
    root = parser.condition()
    return Expression(text, root, root.names, frozenset(parser.settings), parser.always, parser.memories)


class _Parser:
    def __init__(self, text: str, replace: Mapping[str, str]) -> None:
        self.text, self.replace = text, replace
        self.tokens, self.at = tokens(text), 0
        self.memories: list[Memory] = []
        self.settings: set[str] = set()
        self.always = False

    @property
    def next(self) -> Token:
        return self.tokens[self.at]

    def fail(self, start: int, message: str) -> ExpressionError:
        return ExpressionError(self.text, start, message)

    def take(self) -> Token:
        token = self.next
        self.at += token.kind != "end"
        return token

    def accept(self, *texts: str) -> Token | None:
        return self.take() if self.next.kind in ("symbol", "word") and self.next.text in texts else None

    def expect(self, text: str, why: str) -> None:
        if self.accept(text) is None:
            raise self.fail(self.next.start, f"expected {text!r} {why}, got {self.next.text or 'the end'!r}")

    def condition(self) -> Node:
        if self.next.kind == "end":
            raise self.fail(0, "the expression is empty: write a condition, e.g. kl > 2")
        root = self.either()
        if self.next.kind != "end":
            raise self.fail(self.next.start, f"expected the end or an operator, got {self.next.text!r}")
        if root.kind != "truth":
            raise self.fail(root.start, "a rule needs a condition, and this is a number: compare it with something")
        return root

    def either(self) -> Node:
        node = self.both()
        while self.accept("or"):
            node = self.truths(node, self.both(), _or)
        return node

    def both(self) -> Node:
        node = self.negation()
        while self.accept("and"):
            node = self.truths(node, self.negation(), _and)
        return node

    def truths(self, a: Node, b: Node, what: Callable[[Value, Value], Value]) -> Node:
        for node in (a, b):
            if node.kind != "truth":
                raise self.fail(node.start, "`and`, `or` join conditions, and this is a number: compare it with something")
        return Node("truth", lambda s: what(a.run(s), b.run(s)), a.names | b.names, a.start)

    def negation(self) -> Node:
        token = self.accept("not")
        if token is None:
            return self.comparison()
        node = self.negation()
        if node.kind != "truth":
            raise self.fail(node.start, "`not` is about a condition, and this is a number: compare it with something")
        return Node("truth", lambda s: None if (v := node.run(s)) is None else 1.0 - v, node.names, token.start)

    def comparison(self) -> Node:
        left = self.sum()
        token = self.accept(*COMPARE)
        if token is None:
            return left
        right = self.sum()
        self.numbers(left, right, token.text)
        if self.next.kind == "symbol" and self.next.text in COMPARE:
            raise self.fail(self.next.start, "comparisons do not chain: write a < b and b < c")
        compare = COMPARE[token.text]
        return self.joined(left, right, lambda a, b: float(compare(a, b)), "truth")

    def numbers(self, a: Node, b: Node, sign: str) -> None:
        for node in (a, b):
            if node.kind != "number":
                raise self.fail(node.start, f"{sign} needs numbers on both sides, and this is a condition")

    def joined(self, a: Node, b: Node, what: Callable[[float, float], float], kind: Literal["number", "truth"] = "number") -> Node:
        def run(scope: Scope) -> Value:
            x, y = a.run(scope), b.run(scope)
            return None if x is None or y is None else what(x, y)

        return Node(kind, run, a.names | b.names, a.start)

    def sum(self) -> Node:
        node = self.product()
        while token := self.accept("+", "-"):
            right = self.product()
            self.numbers(node, right, token.text)
            node = self.joined(node, right, operator.add if token.text == "+" else operator.sub)
        return node

    def product(self) -> Node:
        node = self.sign()
        while token := self.accept("*", "/"):
            if token.text == "*" and self.next.text == "*":
                raise self.fail(self.next.start, "there are no powers: multiply")
            right = self.sign()
            self.numbers(node, right, token.text)
            node = self.joined(node, right, operator.mul if token.text == "*" else divided)
        return node

    def sign(self) -> Node:
        token = self.accept("-", "+")
        if token is None:
            return self.atom()
        node = self.sign()
        if node.kind != "number":
            raise self.fail(node.start, "a sign stands before a number, and this is a condition")
        factor = -1.0 if token.text == "-" else 1.0
        return Node("number", lambda s: None if (v := node.run(s)) is None else factor * v, node.names, token.start)

    def atom(self) -> Node:
        token = self.take()
        if token.kind == "number":
            value = float(token.text)
            return Node("number", lambda s: value, frozenset(), token.start)
        if token.kind == "setting":
            self.settings.add(token.text)
            return Node("number", lambda s: s.settings.get(token.text), frozenset(), token.start)
        if token.kind in ("name", "pattern"):
            called = self.next.kind == "symbol" and self.next.text == "("
            return self.call(token) if called and token.kind == "name" else self.metric(token)
        if token.kind == "symbol" and token.text == "(":
            node = self.either()
            self.expect(")", "to close the bracket")
            return node
        raise self.fail(token.start, f"expected a metric, a number or a bracket, got {token.text or 'the end'!r}")

    def metric(self, token: Token) -> Node:
        name = self.replace.get(token.text, token.text)
        return Node("number", lambda s: s.values.get(name), frozenset({name}), token.start, name)

    # Functions -----------------------------------------------------------------------------------------------------------------------

    def call(self, token: Token) -> Node:
        name = token.text
        if name not in FUNCTIONS:
            near = nearest(name, FUNCTIONS)
            raise self.fail(
                token.start, f"there is no function {name!r}" + (f"; did you mean {near!r}?" if near else f": {', '.join(FUNCTIONS)}")
            )
        self.expect("(", "after the function's name")
        inner = self.either()
        if name == "either":
            return self.instead(inner)
        n = self.size(name) if self.accept(",") else None
        self.expect(")", f"at the end of {name}(...)")
        if name in ("absent", "age", "finite", "best"):
            if n is not None:
                raise self.fail(token.start, f"{name} takes one argument: {name}(x)")
        elif n is None and name not in _OPTIONAL:
            raise self.fail(token.start, f"{name} needs a number of reports: {name}(x, 10)")
        if name in ("std", "slope") and n is not None and n < 2:
            raise self.fail(token.start, f"{name} needs two values or more")
        wanted = "truth" if name == "count" else "number"
        if inner.kind != wanted:
            kinds = "a condition: count(x > 1, 10)" if wanted == "truth" else "a number, not a condition"
            raise self.fail(inner.start, f"{name} takes {kinds}")
        return self.function(token, inner, n)

    def instead(self, first: Node) -> Node:
        """``either(x, y)``: x, or y while x is absent. Both are asked each time, for what they remember."""
        self.expect(",", "and what stands in: either(x, y)")
        second = self.either()
        self.expect(")", "at the end of either(...)")
        for node in (first, second):
            if node.kind != "number":
                raise self.fail(node.start, "either takes two numbers, and this is a condition")

        def run(scope: Scope) -> Value:
            value, other = first.run(scope), second.run(scope)
            return other if value is None else value

        return Node("number", run, first.names | second.names, first.start)

    def size(self, name: str) -> int:
        token = self.take()
        if token.kind != "number" or not token.text.isdecimal() or int(token.text) < 1:
            raise self.fail(token.start, f"the window of {name} is a whole number, 1 or more")
        return int(token.text)

    def function(self, token: Token, inner: Node, n: int | None) -> Node:
        match token.text:
            case "finite":
                return Node("truth", lambda s: None if (v := inner.run(s)) is None else float(math.isfinite(v)), inner.names, token.start)
            case "absent" | "age":
                return self.presence(token, inner)
            case "count":
                return self.remembering(token, inner, Count(n))
            case "best":
                better = direction(inner.one) if inner.one else None
                if better is None:
                    raise self.fail(token.start, "best takes a metric whose name says which way is better; write max(x) or min(x)")
                return self.remembering(token, inner, Whole(better))
        return self.remembering(token, inner, window(token.text, n))

    def presence(self, token: Token, inner: Node) -> Node:
        name = inner.one
        if not name:
            raise self.fail(inner.start, f"{token.text} takes the name of a metric")
        self.always = True
        if token.text == "absent":
            return Node("truth", lambda s: float(name not in s.values), inner.names, token.start)
        return Node("number", lambda s: None if name not in s.reported else float(s.step - s.reported[name]), inner.names, token.start)

    def remembering(self, token: Token, inner: Node, memory: Memory) -> Node:
        """``inner`` is remembered whenever the row reports one of its metrics."""
        if not inner.names:
            raise self.fail(inner.start, f"{token.text} looks back at a metric, and there is none in it")
        self.memories.append(memory)

        def run(scope: Scope) -> Value:
            value = inner.run(scope)
            if value is not None and not inner.names.isdisjoint(scope.row):
                memory.add(value)
            return memory.value()

        return Node("number", run, inner.names, token.start)


def _and(a: Value, b: Value) -> Value:
    if a == 0 or b == 0:
        return 0.0
    return None if a is None or b is None else 1.0


def _or(a: Value, b: Value) -> Value:
    if a == 1 or b == 1:
        return 1.0
    return None if a is None or b is None else 0.0


def patterns(text: str) -> tuple[str, ...]:
    """The patterns (names with ``*``) in an expression, each once. Raises ExpressionError as ``parse`` does for unknown signs."""
    return tuple(dict.fromkeys(token.text for token in tokens(text) if token.kind == "pattern"))
