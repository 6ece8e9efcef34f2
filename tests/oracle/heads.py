"""Heads as their authors save them, and what torch makes of the embeddings of a run.

Usage: heads.py make DIR DIM        the heads' files, for embeddings of DIM numbers
       heads.py check OUT DIM       the columns of OUT are what torch gives, of seeded weights anew
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import nn


class Aesthetic(nn.Module):
    """As improved-aesthetic-predictor builds it (simple_inference.py), of DIM instead of 768."""

    def __init__(self, dim):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2),
            nn.Linear(128, 64), nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1))

    def forward(self, x):
        return self.layers(x)


def mlp(dim, activation, outputs, *last):
    return nn.Sequential(nn.Linear(dim, 32), activation, nn.Dropout(0.5), nn.Linear(32, 24),
                         activation, nn.Linear(24, outputs), *last)


def heads(dim):
    """Name -> the head, and the same with another activation or none."""
    return {
        # sa_0_4_vit_l_14_linear
        "linear": (lambda: nn.Linear(dim, 1), None),
        "aesthetic": (lambda: Aesthetic(dim), lambda: mlp_like(Aesthetic(dim))),
        "relu": (lambda: mlp(dim, nn.ReLU(), 1, nn.Sigmoid()), lambda: mlp(dim, nn.GELU(), 1, nn.Sigmoid())),
        "gelu": (lambda: mlp(dim, nn.GELU(), 3, nn.Softmax(-1)), lambda: mlp(dim, nn.ReLU(), 3, nn.Softmax(-1))),
        "gelu_tanh": (lambda: mlp(dim, nn.GELU("tanh"), 1), lambda: mlp(dim, nn.GELU(), 1)),
        "silu": (lambda: mlp(dim, nn.SiLU(), 1), lambda: mlp(dim, nn.Tanh(), 1)),
        "tanh": (lambda: mlp(dim, nn.Tanh(), 4), lambda: mlp(dim, nn.SiLU(), 4)),
    }


def mlp_like(head):
    """The same layers with relu between."""
    linear = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
    return nn.Sequential(*[module for layer in linear for module in [nn.ReLU(), layer]][1:])


def seeded(make, name):
    torch.manual_seed(sum(map(ord, name)))
    head = make().eval()
    for weight in head.parameters():
        # Large enough for the activation to matter.
        weight.data *= 6
    return head


def make(folder, dim):
    for name, (build, _) in heads(dim).items():
        save_file(seeded(build, name).state_dict(), folder / f"{name}.safetensors")
    save_file({"layers.0.weight": torch.ones(4, dim), "layers.1.weight": torch.ones(1, 5)},
              folder / "broken.safetensors")
    save_file({"a.weight": torch.ones(4, dim), "b.weight": torch.ones(1, 4)},
              folder / "unordered.safetensors")
    save_file({"0.weight": torch.ones(dim), "0.running_mean": torch.ones(dim)},
              folder / "batchnorm.safetensors")


def check(out, dim):
    parts = sorted(out.glob("part-*.parquet"))
    table = pa.concat_tables([pq.read_table(part) for part in parts])
    for of in ["image", "text"]:
        stored = table[f"{of}_embedding"].combine_chunks()
        there = stored.is_valid().to_numpy(zero_copy_only=False)
        assert there.any() and not there.all()
        x = torch.from_numpy(np.stack(stored.drop_null().to_numpy(zero_copy_only=False)))
        for name, (build, other) in heads(dim).items():
            for column in [f"{of}_{name}", f"{of}_{name}_2"]:
                if column not in table.column_names:
                    assert column.endswith("_2"), column
                    continue
                ours = table[column].combine_chunks()
                assert (ours.is_valid().to_numpy(zero_copy_only=False) == there).all(), column
                ours = ours.drop_null().to_numpy(zero_copy_only=False)
                ours = np.stack(ours).reshape(len(x), -1)
                pick = slice(2, 3) if column.endswith("_2") else slice(None)
                with torch.no_grad():
                    wanted = seeded(build, name)(x).numpy()[:, pick]
                assert ours.shape == wanted.shape and ours.dtype == np.float32, column
                apart = np.abs(ours - wanted).max()
                scale = max(1, np.abs(wanted).max())
                assert apart < 1e-5 * scale, (column, apart, scale)
                if other:
                    with torch.no_grad():
                        wrong = seeded(other, name)(x).numpy()[:, pick]
                    far = np.abs(ours - wrong).max()
                    assert far > 100 * apart and far > 1e-4, (column, far)
                print(column, "differs by", apart)


if __name__ == "__main__":
    command, path, dim = sys.argv[1:]
    make(Path(path), int(dim)) if command == "make" else check(Path(path), int(dim))
