# SPDX-License-Identifier: Apache-2.0
"""What several of the examples need: arguments, a picture's place, digits of dots, a step of training."""

import argparse
from pathlib import Path

import torch
from torch import nn

SEEDS = 3  # an example is judged over so many, one after the other
ROWS, COLUMNS = 7, 5  # dots of a character
# Five columns of seven dots for each character, the lowest bit on top.
DIGITS = "3E5149453E 00427F4000 4261514946 2141454B31 1814127F10 "
DIGITS += "2745454539 3C4A494930 0171090503 3649494936 064949291E"


def arguments(doc, picture=True):
    """(seeds, folder for pictures) of the command line; `doc` is the example's own. One thread from here on:
    the models are small, and rounding is then the same whatever else runs."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help=f"the first of {SEEDS}")
    where = "where the picture goes" if picture else "not used: there is no picture"
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help=where)
    given = parser.parse_args()
    if not 0 <= given.seed < 2**60:
        parser.error(f"--seed must be at least 0 and below 2**60, got {given.seed}")
    torch.set_num_threads(1)
    return [given.seed + number for number in range(SEEDS)], given.out


def save(picture, path, *what):
    """picture(path, *what), in a folder that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(path, *what)
    print(f"picture: {path}")


def glyphs(font):
    """int64 [characters, ROWS, COLUMNS] of 0 and 1."""
    return torch.tensor(
        [[[byte >> row & 1 for byte in bytes.fromhex(g)] for row in range(ROWS)] for g in font.split()]
    )


def images_of(font, count, generator, height, width, noise):
    """Random characters at random places under noise of that deviation: (images float32 [count, height *
    width], which int64 [count])."""
    characters = glyphs(font)
    which = torch.randint(len(characters), (count,), generator=generator)
    images = noise * torch.randn(count, height, width, generator=generator)
    down = torch.randint(height - ROWS + 1, (count,), generator=generator)
    right = torch.randint(width - COLUMNS + 1, (count,), generator=generator)
    rows = (down[:, None] + torch.arange(ROWS))[:, :, None]
    columns = (right[:, None] + torch.arange(COLUMNS))[:, None, :]
    images[torch.arange(count)[:, None, None], rows, columns] += characters[which]
    return images.flatten(1), which


def descend(loss, model, optimizer, schedule):
    """One step of training with clipped gradients."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
