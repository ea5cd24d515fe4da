"""From a prepared folder's indices back to raw values, as a feed's backend would have sent them.

Of a numeric feature only the bucket is known, so the value is some number in that bucket. Shapes: N exposures.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.batch import Jagged
from genrank.data.manifest import Manifest
from genrank.data.timelines import Timelines
from genrank.data.vocabulary_files import read_vocabulary
from genrank.schema import FeatureSpec


class Decoder:
    """Contexts and actions of a prepared folder's exposures."""

    def __init__(self, folder: Path, manifest: Manifest):
        self.spec, self.boundaries = manifest.spec, manifest.boundaries
        spec = self.spec
        sizes = {f.name: f.size for f in spec.of("exposure") if f.kind in ("categorical", "multi")}
        sizes |= {part.name: part.size for part in spec.feedback}
        self.values = {
            name: {index: value for value, index in read_vocabulary(folder, name, size).items()}
            for name, size in sizes.items()
        }

    def contexts(self, t: Timelines, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
        """(N) features by name; unknown ones are left out."""
        columns = {
            feature.name: [self._feature(feature, value) for value in _values(t.features[feature.name], rows)]
            for feature in self.spec.of("exposure")
        }
        return [
            {name: column[place] for name, column in columns.items() if column[place] is not None}
            for place in range(len(rows))
        ]

    def actions(self, t: Timelines, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
        """(N) tasks and feedback by name: bool, seconds, a value; None where unknown."""
        decoded: list[dict[str, Any]] = []
        for row in rows.tolist():
            action: dict[str, Any] = {}
            for task in self.spec.tasks:
                value = t.tasks[task.name][row]
                if task.kind == "binary":
                    action[task.name] = None if value < 0 else bool(value)
                else:
                    action[task.name] = None if np.isnan(value) else float(value)
            for name, column in t.feedback.items():
                action[name] = self.values[name].get(int(column[row]))
            decoded.append(action)
        return decoded

    def _feature(self, feature: FeatureSpec, value: Any) -> Any:
        if feature.kind == "multi":
            index, weights = value
            names = [self.values[feature.name][each] for each in index if each]
            return (names if weights is None else dict(zip(names, weights, strict=True))) or None
        if value == 0:
            return None
        if feature.kind == "categorical":
            return self.values[feature.name].get(value)
        edges = self.boundaries[feature.name]
        return edges[value - 2] if value > 1 else (edges[0] - 1 if edges else 0.0)


def _values(column: Any, rows: NDArray[np.int64]) -> list[Any]:
    if isinstance(column, Jagged):
        places = [slice(*column.offsets[row : row + 2].tolist()) for row in rows.tolist()]
        weights = column.weights
        return [(column.values[p].tolist(), None if weights is None else weights[p].tolist()) for p in places]
    plain: list[Any] = column[rows].tolist()
    return plain
