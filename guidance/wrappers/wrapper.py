"""What every rule around another rule shares."""

from ...core.pytrees import replaced


class Wrapper:
    """Base of rules around one other, their field ``rule``: around what holds at each sigma."""

    def at(self, sigma):
        """Return this wrapper around ``rule.at(sigma)``."""
        inner = self.rule.at(sigma)
        return self if inner is self.rule else replaced(self, rule=inner)
