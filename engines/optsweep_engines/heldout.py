"""The held-out sets of one run: that of its own dataset, and further ones by name; fixed windows of each, opened once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from optsweep_engines import data
from optsweep_engines.shards import PreparedDataset
from optsweep_engines.spec import OWN_SET, RunSpec


class HeldOut:
    """What the losses of a run are measured on."""

    def __init__(self, spec: RunSpec, root: Path, own: PreparedDataset) -> None:
        """Open the sets; every token was hashed since the files were last touched.

        Args:
            root: folder of the prepared datasets.
            own: the dataset that the run trains on.

        Raises:
            ValueError: a set is missing, damaged or too small, has tokens that the model does not know, or is the metric and
                not among them.
        """
        self.spec = spec
        self._sets: dict[str, tuple[PreparedDataset, str]] = {OWN_SET: (own, OWN_SET)}
        for name, item in spec.validation_sets.items():
            if item.dataset_hash is None:
                raise ValueError(
                    f"validation set {name}: dataset {item.dataset} is not prepared: the spec names no hash"
                )
            found = data.open_dataset(root, item.dataset, item.dataset_hash)
            found.verify_once()
            if found.vocab_size > spec.shape.vocab_size:
                raise ValueError(
                    f"validation set {name}: dataset {item.dataset} has {found.vocab_size} tokens, model {spec.model} knows "
                    f"{spec.shape.vocab_size}"
                )
            self._sets[name] = found, item.split
            self.windows(name)  # too few tokens are told now, not after hours
        if spec.validation_set not in self._sets:
            raise ValueError(f'the metric is the validation set "{spec.validation_set}", which the run does not have')

    def windows(self, name: str | None = None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Inputs and targets of a set's windows.

        Args:
            name: None: that of the metric.
        """
        dataset, split = self._sets[name or self.spec.validation_set]
        return data.validation_windows(dataset, self.spec.validation_tokens, self.spec.seq_len, split)
