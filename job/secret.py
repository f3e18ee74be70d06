"""A text that must not be seen."""


class Secret:
    """Holds a token or key; every way to print it gives ``***``.

    Attributes:
        value: The text itself, for the one call that needs it.
    """

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not to be pickled")
