"""`backfill doctor`: whether all that a run needs is there, and set as it should be.

Nothing is written anywhere. What cannot be looked at because of something else is left out: the
cause is told, and not what follows from it.
"""

from backfill.operate.doctor.examine import examine
from backfill.operate.doctor.outcome import Examined, Outcome

__all__ = ["Examined", "Outcome", "examine"]
