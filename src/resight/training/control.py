"""What may be asked of a training while it runs, and what it tells meanwhile."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass
class Control:
    """Between the loop of a training and what watches it from outside.

    Args:
        stop: asks to end after the step, with the state saved. An evaluation ends at once and is made again later.
        save: asks to save after the step and to go on; the loop clears it. An evaluation under way has its state saved.
        step: how many the training has taken.
    """

    stop: threading.Event = field(default_factory=threading.Event)
    save: threading.Event = field(default_factory=threading.Event)
    step: int = 0
