"""Lightning checkpoints as safetensors: tensors in the file's body, everything else as JSON in its header.

Lightning's default writes pickle. Here nothing can execute on loading, and a file is whole or absent.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipeline.errors import SegtrailError

TREE = "tree"


class SafetensorsCheckpointIO(CheckpointIO):
    """Saves and loads checkpoints of tensors and plain values without pickle."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes beside the target, flushes to disk, then renames."""
        tensors: dict[str, torch.Tensor] = {}
        tree = json.dumps(_encode(checkpoint, tensors))
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(target.name + ".tmp")
        save_file(tensors, temporary, metadata={TREE: tree})
        descriptor = os.open(temporary, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        temporary.replace(target)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint; tensors go to the CPU, Lightning moves them.

        Raises:
            SegtrailError: The file is damaged.
        """
        try:
            with safe_open(path, framework="pt") as stream:
                tree = json.loads(stream.metadata()[TREE])
                loaded: dict[str, Any] = _decode(tree, stream)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise SegtrailError(
                f"the checkpoint is damaged: {error}", str(path), "delete it; the training starts again"
            ) from error
        return loaded

    def remove_checkpoint(self, path: Any) -> None:
        """Deletes a checkpoint, if it is there."""
        Path(path).unlink(missing_ok=True)


def _encode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON-able tree in which tensors stand by name, and dict keys keep their type."""
    if isinstance(value, torch.Tensor):
        name = f"t{len(tensors)}"
        # A copy: safetensors refuses tensors that share memory.
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, dict):
        return {"items": [[_encode(k, tensors), _encode(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_encode(v, tensors) for v in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a checkpoint holds tensors and plain values, not {type(value).__name__}: {value!r}")


def _decode(tree: Any, stream: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return stream.get_tensor(content)
    if kind == "items":
        return {_decode(k, stream): _decode(v, stream) for k, v in content}
    values = [_decode(v, stream) for v in content]
    return tuple(values) if kind == "tuple" else values
