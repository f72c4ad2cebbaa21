"""The embeddings of a split as a table, and as t-SNE figures coloured by country and by speaker."""

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
"""With fewer, the perplexity of t-SNE, a third of the number of neighbours, would be below 1."""

MOST_DRAWN = 5_000
"""Clips in a picture: t-SNE of so many takes about half a minute on one core."""

MOST_NAMED = 12
"""Groups that a legend names."""

UNKNOWN = "#b0b0b0"
"""The colour of clips whose group is not known."""

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#000000")
"""Okabe and Ito's, distinct for all kinds of colour vision, without the yellow, which is faint on white."""


def embedding_table(rows: pd.DataFrame, embeddings: np.ndarray) -> pd.DataFrame:
    """One row a clip: file, speaker, country (where the corpus has it), then the embedding as e0, e1 and so on.

    Args:
        rows: of the corpus' table, (clips,).
        embeddings: (clips, embedding).
    """
    labels = rows[[name for name in ("file", "speaker", "country") if name in rows]].reset_index(drop=True)
    values = pd.DataFrame(embeddings, columns=[f"e{index}" for index in range(embeddings.shape[1])])
    return pd.concat([labels, values], axis=1)


def project(embeddings: np.ndarray, seed: int = 0) -> np.ndarray:
    """t-SNE (van der Maaten and Hinton, JMLR 9, 2008) to the plane, begun from the principal components.

    Args:
        embeddings: (clips, embedding).
        seed: of its random choices.

    Returns:
        (clips, 2), without a unit: only which clips are near each other has a meaning.

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
    with threadpool_limits(1):  # on busy cores two threads, which wait for each other, took five times as long
        points: np.ndarray = tsne.fit_transform(embeddings)
    return points


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name in sorted order, and `UNKNOWN` for ''.

    >>> colours(["Kenya", "", "Chile"])
    {'Chile': '#0072b2', 'Kenya': '#e69f00', '': '#b0b0b0'}
    """
    groups = sorted(set(names) - {""})
    chosen = list(COLOURS)
    if len(groups) > len(COLOURS):  # by the golden ratio: successive names are far apart in hue
        hues = (np.arange(len(groups)) * 0.61803398875) % 1
        lightness = np.resize([0.35, 0.5, 0.65], len(groups))
        chosen = [to_hex(colorsys.hls_to_rgb(hue, light, 0.75)) for hue, light in zip(hues, lightness, strict=True)]
    colour_of = dict(zip(groups, chosen, strict=False))
    return colour_of | ({"": UNKNOWN} if "" in names else {})


def draw(points: np.ndarray, groups: pd.Series[str], title: str, seed: int = 0) -> Figure:
    """A scatter plot of clips, coloured by group, with a legend where there are few groups (`MOST_NAMED`).

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


def tsne_figures(table: pd.DataFrame, model: str, data: str, embedding: str, seed: int = 0) -> dict[str, Figure]:
    """t-SNE figures of the clips, coloured by country (where the corpus has it) and by speaker.

    Args:
        table: as `embedding_table` gives it; of more than `MOST_DRAWN` clips as many are drawn at random.
        model: what was trained, the first line of the title.
        data: corpus and split, for the title.
        embedding: main or enrolment, for the title.
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
    points = project(table.loc[:, "e0":].to_numpy(), seed)
    figures = {}
    for name in ("country", "speaker"):
        if name in table and (table[name] != "").any():
            count = table.loc[table[name] != "", name].nunique()
            legend = f"colour: {name}" + (f" ({count:,} of them)" if count > MOST_NAMED else "")
            title = f"{model}\n{data}, {clips}\nt-SNE of the {embedding} embeddings, {legend}"
            figures[name] = draw(points, table[name], title, seed)
    return figures
