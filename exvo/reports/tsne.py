"""The embeddings of a split as a table, and as t-SNE pictures coloured by country and by speaker."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from exvo.errors import InputError

FEWEST_CLIPS = 4
"""For t-SNE: with fewer, its perplexity of a third of the neighbours would be under 1."""

MOST_DRAWN = 5_000
"""Clips in a picture: t-SNE of these takes about half a minute of one core."""

MOST_NAMED = 12
"""Groups that a legend names."""

UNKNOWN = "#b0b0b0"

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#000000")
"""Okabe and Ito's, for all kinds of colour vision, without the yellow, which is faint on white."""


def embedding_table(rows: pd.DataFrame, embeddings: np.ndarray) -> pd.DataFrame:
    """One row a clip: file, speaker, country (where the corpus has it), then the embedding as e0, e1 and so on.

    Args:
        rows: of the corpus' table, (clips,).
        embeddings: (clips, embedding).
    """
    about = rows[[name for name in ("file", "speaker", "country") if name in rows]].reset_index(drop=True)
    numbers = pd.DataFrame(embeddings, columns=[f"e{number}" for number in range(embeddings.shape[1])])
    return pd.concat([about, numbers], axis=1)


def project(embeddings: np.ndarray, seed: int = 0) -> np.ndarray:
    """t-SNE (van der Maaten and Hinton, JMLR 9, 2008) to the plane, begun from the principal components.

    Args:
        embeddings: (clips, embedding).
        seed: of the little that is random.

    Returns:
        (clips, 2), no unit: only who is near whom has a meaning.

    Raises:
        InputError: fewer than four clips, or all embeddings are the same.
    """
    if len(embeddings) < FEWEST_CLIPS:
        raise InputError(f"t-SNE needs at least {FEWEST_CLIPS} clips, not {len(embeddings)}; choose another split.")
    if (embeddings == embeddings[0]).all():
        raise InputError(
            f"The embeddings of all {len(embeddings)} clips are the same, so there is nothing to draw; the network has "
            "learnt nothing: train it longer, or with another learning rate."
        )
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    with threadpool_limits(1):  # its threads wait for each other: on busy cores two took five times as long as one
        points: np.ndarray = tsne.fit_transform(embeddings)
    return points


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name in sorted order; grey for '', the unknown.

    >>> colours(["Kenya", "", "Chile"])
    {'Chile': '#0072b2', 'Kenya': '#e69f00', '': '#b0b0b0'}
    """
    known = sorted(set(names) - {""})
    chosen = list(COLOURS)
    if len(known) > len(COLOURS):  # steps of the golden ratio: neighbours in the alphabet are far apart in hue
        hues = (np.arange(len(known)) * 0.61803398875) % 1
        lightness = np.resize([0.35, 0.5, 0.65], len(known))
        chosen = [to_hex(colorsys.hls_to_rgb(hue, light, 0.75)) for hue, light in zip(hues, lightness, strict=True)]
    found = dict(zip(known, chosen, strict=False))
    return found | ({"": UNKNOWN} if "" in names else {})


def draw(points: np.ndarray, groups: pd.Series[str], title: str, seed: int = 0) -> Figure:
    """A scatter of clips, coloured by group, with a legend where the groups are few enough to tell apart.

    Args:
        points: (clips, 2).
        groups: (clips,), country or speaker; '' where unknown.
        title: above the picture.
        seed: of the order in which the dots are drawn, so that no group covers another.
    """
    colour_of = colours(groups.tolist())
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.add_subplot()
    order = np.random.default_rng(seed).permutation(len(points))
    axes.scatter(
        points[order, 0],
        points[order, 1],
        c=[colour_of[group] for group in groups.iloc[order]],
        s=float(np.clip(8_000 / len(points), 8, 50)),
        alpha=0.85,
        linewidths=0,
    )
    axes.set_title(title, fontsize=10)
    axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
    axes.spines[:].set_color("#d0d0d0")
    if len(colour_of) <= MOST_NAMED:
        counts = groups.value_counts()
        dots = [
            Line2D([], [], ls="", marker="o", ms=7, color=colour, label=f"{group or 'unknown'} ({counts[group]})")
            for group, colour in colour_of.items()
        ]
        figure.legend(
            handles=dots,
            loc="outside lower center",
            ncols=min(len(dots), 4),
            frameon=False,
            title=f"{groups.name} (clips)",
        )
    return figure


def pictures(table: pd.DataFrame, model: str, about: str, embedding: str, seed: int = 0) -> dict[str, Figure]:
    """t-SNE pictures of a table of `embedding_table`, coloured by country (where the corpus has it) and by speaker.

    Args:
        table: one row a clip; of more than 5,000 as many are drawn at random.
        model: what was trained, the first line of the title.
        about: what the title says of corpus and split.
        embedding: main or enrolment.
        seed: of the choice of clips and of t-SNE.

    Returns:
        `country` and `speaker`, or `speaker` alone.

    Raises:
        InputError: as `project`.
    """
    clips = f"{len(table):,} clips"
    if len(table) > MOST_DRAWN:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(table))[:MOST_DRAWN])
        clips = f"{MOST_DRAWN:,} of {clips}, at random"
        table = table.iloc[chosen]
    numbers = table.loc[:, "e0":].to_numpy()
    points = project(numbers, seed)
    found = {}
    for name in ("country", "speaker"):
        if name in table and (table[name] != "").any():
            count = table.loc[table[name] != "", name].nunique()
            told = f"colour: {name}" + (f" ({count:,} of them)" if count > MOST_NAMED else "")
            title = f"{model}\n{about}, {clips}\nt-SNE of the {embedding} embeddings, {told}"
            found[name] = draw(points, table[name], title, seed)
    return found
