"""Header fields as everything but `proxy` sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping


class Headers:
    """An ordered, case-insensitive, immutable list of header fields (RFC 9110 §5); names keep their spelling."""

    __slots__ = ("_first", "_pairs")

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._pairs = tuple(pairs)
        self._first: dict[str, str] | None = None  # lower-cased name -> first value, made when it is first asked for

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self._pairs == other._pairs

    def __hash__(self) -> int:
        return hash(self._pairs)

    def __repr__(self) -> str:
        return f"Headers({[name for name, _ in self._pairs]})"  # names only: values may be secrets

    def __contains__(self, name: str) -> bool:
        return name.lower() in self.first

    @property
    def first(self) -> Mapping[str, str]:
        """The first value of each name, by its lower-cased name: for whoever asks for many."""
        if self._first is None:
            self._first = {key.lower(): value for key, value in reversed(self._pairs)}
        return self._first

    def get(self, name: str) -> str | None:
        """Return the first value of *name*, or None."""
        return self.first.get(name.lower())

    def get_all(self, name: str) -> list[str]:
        """Return every value of *name* in order."""
        wanted = name.lower()
        return [value for key, value in self._pairs if key.lower() == wanted]

    def where(self, keep: Callable[[str], bool]) -> Headers:
        """Return the fields whose lower-cased name *keep* accepts."""
        return Headers([pair for pair in self._pairs if keep(pair[0].lower())])

    def without(self, *names: str) -> Headers:
        """Return a copy that has none of *names*."""
        gone = {name.lower() for name in names}
        return Headers([pair for pair in self._pairs if pair[0].lower() not in gone])

    def plus(self, *pairs: tuple[str, str]) -> Headers:
        """Return a copy in which *pairs* replace the fields of those names, in place of the first or at the end."""
        new = {pair[0].lower(): pair for pair in pairs}
        left = dict(new)
        out: list[tuple[str, str]] = []
        for pair in self._pairs:
            key = pair[0].lower()
            if key not in new:
                out.append(pair)
            elif key in left:
                out.append(left.pop(key))
        return Headers([*out, *left.values()])
