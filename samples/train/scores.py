"""How often the checker found what was asked for: shares, confusion tables, JSON."""
from __future__ import annotations

from collections import Counter
from typing import Any

from checker import ATTRIBUTES, Verdict
from world import Scene

THREE = ("colour", "shape", "motion")


class Scores:
    """Counts over clips, each with the scene that was asked for and the checker's verdict."""

    def __init__(self) -> None:
        self.clips = 0
        self.hits: Counter[str] = Counter()
        self.table: Counter[tuple[str, str, str]] = Counter()  # attribute, asked, seen

    def add(self, asked: Scene, seen: Verdict) -> None:
        right = {k: getattr(seen, k) == getattr(asked, k) for k in ATTRIBUTES}
        self.clips += 1
        self.hits.update({**right, "colour on background": right["colour"] and right["background"],
                          "all three": all(right[k] for k in THREE), "all four": all(right.values())})
        self.table.update((k, getattr(asked, k), getattr(seen, k)) for k in ATTRIBUTES)

    def shares(self) -> dict[str, float]:
        """Per cent of the clips; `all three` is colour, shape and motion, `all four` adds the background."""
        return {k: 100 * v / max(self.clips, 1) for k, v in self.hits.items()}

    def line(self) -> str:
        return ", ".join(f"{k} {v:.0f} %" for k, v in self.shares().items())

    def confusion(self) -> dict[str, dict[str, dict[str, int]]]:
        """Attribute -> asked -> seen -> clips; only what came up."""
        out: dict[str, dict[str, dict[str, int]]] = {k: {} for k in ATTRIBUTES}
        for (k, asked, seen), n in sorted(self.table.items()):
            out[k].setdefault(asked, {})[seen] = n
        return out

    def tables(self) -> str:
        """The confusion tables in Markdown."""
        lines = []
        for k, rows in self.confusion().items():
            asked = [x for x in ATTRIBUTES[k] if x in rows]
            seen = [x for x in (*ATTRIBUTES[k], "still", "-") if any(x in r for r in rows.values())]
            lines += ["", f"| {k}: asked \\ seen | " + " | ".join(seen) + " |", "|" + " --- |" * (len(seen) + 1)]
            lines += [f"| {x} | " + " | ".join(str(rows[x].get(y, "")) for y in seen) + " |" for x in asked]
        return "\n".join(lines)

    def json(self) -> dict[str, Any]:
        return {"clips": self.clips, "percent": self.shares(), "confusion": self.confusion()}


def sentence(v: Verdict) -> str:
    return f"{v.colour} {v.shape} {v.motion} on {v.background}"
