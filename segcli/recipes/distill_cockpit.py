"""What one wants to see while a student is taught: losses, their pull, agreement, health."""

from __future__ import annotations

from collections import Counter

from segcli.reporting.events import Reporter

# A loss with more than this share of the gradient, so many times in a row, is named.
DOMINANT, IN_A_ROW = 0.85, 3
# A discriminator that is nearly always right, or wrong, teaches nothing.
TOO_GOOD, TOO_BAD = 0.98, 0.52
_KEYS = {
    "supervised": "train.loss.terms",
    "coarse": "distill.coarse_weight",
}


class Cockpit:
    """Collects the figures of steps between two reports."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.sums: dict[str, float] = {}
        self.counts: Counter[str] = Counter()
        self.shares: dict[str, float] = {}
        self.streak: Counter[str] = Counter()
        self.named: set[str] = set()

    def note_step(self, figures: dict[str, float]) -> None:
        """Add the figures of a step that was taken."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] += 1

    def note_shares(self, shares: dict[str, float], step: int) -> None:
        """Take note of shares of the gradient; a loss that dominates is named, once."""
        self.shares = shares
        for name, share in shares.items():
            self.streak[name] = self.streak[name] + 1 if share > DOMINANT else 0
            if self.streak[name] < IN_A_ROW or name in self.named or len(shares) < 2:
                continue
            self.named.add(name)
            key = _KEYS.get(name, f"distill.losses.{name}")
            advice = (
                "raise the weights of distill.losses" if name == "supervised" else f"lower {key}"
            )
            self.reporter.warning(
                f"step {step}: '{name}' dominates with {100 * share:.0f} % of the gradient, "
                f"the other losses hardly count ({advice})"
            )

    def report(self, step: int) -> None:
        """One line of means since the last report, and a word where a figure is odd."""
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, Counter()
        parts = []
        for name, label in _shown(means):
            share = self.shares.get(name)
            parts.append(label if share is None else f"{label} ({100 * share:.0f} %)")
        if not parts:
            return
        line = "losses (share of the gradient): " + ", ".join(parts)
        if "distill/agreement" in means:
            line += f"; agrees with the teacher on {100 * means['distill/agreement']:.1f} %"
        if "coarse/agreement" in means:
            line += (
                f"; coarse labels agree on {100 * means['coarse/agreement']:.1f} %, "
                f"{100 * means['coarse/overruled']:.1f} % overruled"
            )
        self.reporter.message(line)
        if "discriminator/accuracy" in means:
            self._health(means)

    def _health(self, means: dict[str, float]) -> None:
        accuracy = means["discriminator/accuracy"]
        self.reporter.message(
            f"discriminator: teacher {means['discriminator/teacher']:+.2f}, student "
            f"{means['discriminator/student']:+.2f}, right on {100 * accuracy:.0f} % of pictures"
        )
        odd = {"wins": accuracy > TOO_GOOD, "guesses": accuracy < TOO_BAD}
        for what, is_so in odd.items():
            self.streak[what] = self.streak[what] + 1 if is_so else 0
            if self.streak[what] >= IN_A_ROW and what not in self.named:
                self.named.add(what)
                how = "a lower" if what == "wins" else "a higher"
                self.reporter.warning(
                    f"the discriminator {what}: its loss teaches little "
                    f"({how} distill.discriminator.lr, or distill.losses.holistic=0)"
                )


def _shown(means: dict[str, float]) -> list[tuple[str, str]]:
    """(name of the share, "name value") of each loss, the supervised first."""
    shown = []
    if "segmentation" in means:
        shown.append(("supervised", f"supervised {means['segmentation']:.3f}"))
    for name, value in means.items():
        kind, _, term = name.partition("/")
        if kind == "distill" and term != "agreement":
            shown.append((term, f"{term} {value:.3g}"))
    if "coarse/cross_entropy" in means:
        shown.append(("coarse", f"coarse {means['coarse/cross_entropy']:.3f}"))
    return shown
