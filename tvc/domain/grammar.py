"""The grammar of terms: text → `Recipe` parts. The other direction is in tvc/domain/recipe.py.

    sum     = "0" | ["-"] product { ("+" | "-") product }
    product = [ number "*" ] factor
    factor  = name | "(" sum ")"
            | method "(" member { "," member } [ ";" option { "," option } ] ")"
    member  = sum            (a single product: its number is the member's weight)
    option  = word "=" ( number | "true" | "false" | word | "[" number { "," number } "]" )
    number  = digits [ "." digits ] [ "e" exponent ] [ "/" digits ]
    name    = bare | "'" any name "'"

Input is hostile: length, depth and the size of numbers are bounded before anything is computed.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, NamedTuple

from tvc.domain.errors import InputError
from tvc.domain.names import check_name, printable
from tvc.domain.recipe import Group, Member, OptionValue, Sum, Term, VectorName, fold

__all__ = ["RecipeSyntaxError", "parse_number", "parse_option", "parse_sum"]

MAX_TEXT: Final = 100_000
_MAX_DEPTH: Final = 32
_MAX_DIGITS: Final = 40
_MAX_EXPONENT: Final = 20

_NUMBER: Final = re.compile(r"(\d+(?:\.\d+)?)(?:[eE]([+-]?\d{1,4}))?(?:\s*/\s*(\d+))?")
_TOKEN: Final = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d{1,4})?(?:\s*/\s*\d+)?(?![\w.]))"
    r"|(?P<word>[a-z][a-z0-9_]*(?:/[a-z][a-z0-9_]*)*(?![\w/]))"
    r"|'(?P<quoted>[^']*)'"
    r"|(?P<symbol>[-+*(),;=\[\]]))"
)


class RecipeSyntaxError(InputError):
    """A term that does not parse; the message shows the text with a caret under the place."""

    def __init__(self, text: str, position: int, problem: str, *, hint: str | None = None) -> None:
        start = max(0, position - 60)
        shown = text[start : start + 120].replace("\n", " ").replace("\t", " ")
        caret = " " * (position - start) + "^"
        super().__init__(f"{problem}\n  {printable(shown, limit=200)}\n  {caret}", hint=hint)
        self.position = position


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            at = position + len(text[position:]) - len(text[position:].lstrip())
            hint = "names other than lower-case words are written in quotes: 'My-Name'"
            raise RecipeSyntaxError(text, at, "this cannot be read", hint=hint)
        kind = match.lastgroup
        start = match.start(kind) - (kind == "quoted")
        tokens.append(_Token(kind, match[kind], start))
        position = match.end()
    return [*tokens, _Token("end", "", len(text))]


def parse_number(text: str) -> Fraction:
    """Read a number exactly: `0.8`, `1e-3`, `1/5`, with an optional minus sign.

    Raises:
        InputError: It is no number, too long, or divides by zero.
    """
    body = text.strip()
    if len(body) > _MAX_DIGITS:
        raise InputError(
            f"{printable(text)!r} is not a number of at most {_MAX_DIGITS} characters",
            hint="round it",
        )
    sign = -1 if body.startswith("-") else 1
    match = _NUMBER.fullmatch(body.removeprefix("-"))
    if match is None or abs(int(match[2] or 0)) > _MAX_EXPONENT:
        raise InputError(f"{printable(text)!r} is not a number", hint="write 0.8, 1e-3 or 1/5")
    denominator = int(match[3] or 1)
    if denominator == 0:
        raise InputError(f"{printable(text)!r} divides by zero")
    return sign * Fraction(match[1]) * Fraction(10) ** int(match[2] or 0) / denominator


def parse_option(text: str) -> OptionValue:
    """Read the value of a method's option, as it stands after `=` in a recipe.

    Raises:
        RecipeSyntaxError: It is no number, word or list of numbers.
    """
    parser = _Parser(text)
    value = parser.option_value()
    parser.expect_end()
    return value


def parse_sum(text: str) -> Sum:
    """Read a sum of terms.

    Raises:
        RecipeSyntaxError: The text does not parse, with a caret where.
        BadName: A quoted name cannot name a vector.
    """
    if len(text) > MAX_TEXT:
        raise InputError(f"a term of {len(text)} characters is too long (at most {MAX_TEXT})")
    parser = _Parser(text)
    terms = parser.sum(depth=0)
    parser.expect_end()
    return terms


class _Product(NamedTuple):
    """A product before it is known whether its number is a coefficient or a weight."""

    number: Fraction
    factor: Sum


@dataclass
class _Parser:
    text: str

    def __post_init__(self) -> None:
        self.tokens = _tokens(self.text)
        self.index = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.index]

    def fail(self, problem: str, *, hint: str | None = None) -> RecipeSyntaxError:
        return RecipeSyntaxError(self.text, self.token.position, problem, hint=hint)

    def take(self, symbol: str) -> bool:
        if self.token.kind == "symbol" and self.token.text == symbol:
            self.index += 1
            return True
        return False

    def expect(self, symbol: str) -> None:
        if not self.take(symbol):
            raise self.fail(f"expected '{symbol}' here")

    def expect_end(self) -> None:
        if self.token.kind != "end":
            raise self.fail("expected the end of the term here")

    def products(self, depth: int) -> list[_Product]:
        if depth > _MAX_DEPTH:
            raise self.fail(f"nested deeper than {_MAX_DEPTH} levels")
        products = [self.product(depth, sign=-1 if self.take("-") else 1)]
        while True:
            if self.take("+"):
                products.append(self.product(depth, sign=1))
            elif self.take("-"):
                products.append(self.product(depth, sign=-1))
            else:
                return products

    def sum(self, depth: int) -> Sum:
        return _expand(self.products(depth))

    def product(self, depth: int, *, sign: int) -> _Product:
        number = Fraction(1)
        if self.token.kind == "number":
            number = self.number()
            if not self.take("*"):
                if number == 0:
                    return _Product(Fraction(1), ())
                raise self.fail("a number multiplies a vector: expected '*' here")
        return _Product(sign * number, self.factor(depth))

    def number(self) -> Fraction:
        try:
            number = parse_number(self.token.text)
        except InputError as error:
            raise self.fail(error.message, hint=error.hint) from None
        self.index += 1
        return number

    def factor(self, depth: int) -> Sum:
        token = self.token
        if self.take("("):
            inner = self.sum(depth + 1)
            self.expect(")")
            return inner
        if token.kind not in ("word", "quoted"):
            raise self.fail("expected the name of a vector or of a merge method here")
        self.index += 1
        if token.kind == "word" and self.take("("):
            return (Term(Fraction(1), self.group(token.text, depth)),)
        return (Term(Fraction(1), VectorName(check_name(token.text))),)

    def group(self, method: str, depth: int) -> Group:
        members = [self.member(depth)]
        while self.take(","):
            members.append(self.member(depth))
        options: dict[str, OptionValue] = {}
        if self.take(";"):
            self.option(options)
            while self.take(","):
                self.option(options)
        self.expect(")")
        return Group(method, tuple(members), tuple(sorted(options.items())))

    def member(self, depth: int) -> Member:
        products = self.products(depth + 1)
        if len(products) == 1:
            number, factor = products[0]
            if number == 0:
                raise self.fail("the weight of a member must not be zero", hint="leave it out")
            return Member(number, factor)
        return Member(Fraction(1), _expand(products))

    def option(self, options: dict[str, OptionValue]) -> None:
        name = self.token.text
        if self.token.kind != "word" or "/" in name:
            raise self.fail("expected the name of an option here")
        if name in options:
            raise self.fail(f"option {name!r} is given twice")
        self.index += 1
        self.expect("=")
        options[name] = self.option_value()

    def option_value(self) -> OptionValue:
        if self.take("["):
            numbers = [self.signed_number()]
            while self.take(","):
                numbers.append(self.signed_number())
            self.expect("]")
            return tuple(numbers)
        token = self.token
        if token.kind in ("word", "quoted"):
            self.index += 1
            words = {"true": True, "false": False} if token.kind == "word" else {}
            return words.get(token.text, token.text)
        return self.signed_number()

    def signed_number(self) -> Fraction:
        sign = -1 if self.take("-") else 1
        if self.token.kind != "number":
            raise self.fail("expected a value here", hint="a number, a word, or [numbers]")
        return sign * self.number()


def _expand(products: list[_Product]) -> Sum:
    return fold(
        Term(number * term.coefficient, term.atom) for number, factor in products for term in factor
    )
