"""What an audit collects: violations for a person, bounded however much is broken."""

VIOLATIONS_MAX = 100
HELD = "PREPARED"
SETTLED = "COMMITTED"
PERFORMED = "DONE"


class Findings:
    """Violations of one service's books, the first one first.

    Args:
        purged: whether ledger rows below the retention watermark are gone, so that the rows that are left may account
            for less than the state, never for more.
    """

    def __init__(self, *, purged: bool) -> None:
        self._purged = purged
        self._texts: list[str] = []
        self._count = 0

    def add(self, text: str) -> None:
        """Note a violation."""
        self._count += 1
        if self._count <= VIOLATIONS_MAX:
            self._texts.append(text)

    def equal(self, where: str, what: str, left: int, right: int) -> None:
        """Both sides must be the same number."""
        if left != right:
            self.add(f"{where}: {what}: {left} is not {right}")

    def within(self, where: str, what: str, value: int, most: int) -> None:
        """A value from 0 to `most`."""
        if not 0 <= value <= most:
            self.add(f"{where}: {what}: {value} is not within 0 and {most}")

    def accounted(self, where: str, what: str, state: int, rows: int) -> None:
        """The settled ledger rows add up to what the state says."""
        if rows > state or (rows < state and not self._purged):
            self.add(f"{where}: {what}: the state says {state}, the ledger's rows add up to {rows}")

    @property
    def violations(self) -> list[str]:
        """The violations, capped, with a last line that counts the rest."""
        rest = self._count - len(self._texts)
        return [*self._texts, f"and {rest} more violations"] if rest else list(self._texts)
