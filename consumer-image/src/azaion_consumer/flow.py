"""How many chunks to ask the broker for: enough to keep it busy, few enough for the memory we may use.

The broker sends one chunk for each credit, whatever its size: a hundred small messages, or thirty images in 25 MB.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Chunks received and asked for may hold this much together, by the size of the largest seen lately; one chunk being
#: worked off and one under way are always allowed.
BUDGET_BYTES = 24 * 1024 * 1024
MAX_CREDIT = 10


@dataclass
class Flow:
    """Counts what is asked for and what waits."""

    outstanding: int = 1
    waiting_chunks: int = 0
    waiting_bytes: int = 0
    largest_bytes: int = 0

    def received(self, size_bytes: int) -> None:
        self.outstanding = max(0, self.outstanding - 1)
        self.waiting_chunks += 1
        self.waiting_bytes += size_bytes
        # Forget a large chunk slowly when smaller ones follow.
        self.largest_bytes = max(size_bytes, self.largest_bytes * 7 // 8)

    def worked_off(self, size_bytes: int) -> None:
        self.waiting_chunks -= 1
        self.waiting_bytes -= size_bytes

    def take_credit(self) -> int:
        """Chunks to ask for now; they count as outstanding from here on."""
        credit = 0
        while self.outstanding + credit < MAX_CREDIT and self._allows(self.outstanding + credit):
            credit += 1
        self.outstanding += credit
        return credit

    def _allows(self, outstanding: int) -> bool:
        if outstanding == 0 and self.waiting_chunks <= 1:
            return True
        return self.waiting_bytes + (outstanding + 1) * self.largest_bytes <= BUDGET_BYTES
