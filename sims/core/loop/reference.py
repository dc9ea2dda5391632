"""The reference policy of the KL penalty: the frozen initial policy, or one that is renewed on schedule."""

from __future__ import annotations

from typing import Generic, TypeVar

from sims.core.schedule import Schedule

from .protocols import Policy

P = TypeVar("P", bound=Policy)


class Reference(Generic[P]):
    """A policy that starts as the initial one and is never trained. `version` counts how often it was renewed."""

    def __init__(self, policy: P, schedule: Schedule) -> None:
        self.policy = policy
        self.schedule = schedule
        self.version = 0

    def after_update(self, update: int, policy: P) -> None:
        """Renew by the schedule's rule; `update` counts from 1."""
        if self.schedule.reference == "copy" and update % (self.schedule.reference_every_updates or 1) == 0:
            self.policy.copy_from(policy)
            self.version += 1
        elif self.schedule.reference == "ema":
            self.policy.blend_from(policy, self.schedule.reference_rate or 1.0)
            self.version += 1
