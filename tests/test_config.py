"""Options: parsed, refused with one sentence, and the same in the code, the MLproject and the pins."""

from __future__ import annotations

import pytest

from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.options import parse
from exvo.settings import ENTRY_POINTS


def test_defaults_and_given_values() -> None:
    settings = parse("train", ["--epochs", "3", "--width", "0.25", "--skip_unreadable", "true", "--batch_size", "auto"])
    assert (settings.epochs, settings.width, settings.skip_unreadable) == (3, 0.25, True)
    assert settings.batch_size is None
    assert (settings.model, settings.corpus, settings.learning_rate) == ("cnn14", "sample", None)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--epochs", "abc"], "epochs=abc is not a whole number or auto."),
        (["--epochs", "1.5"], "epochs=1.5 is not a whole number or auto."),
        (["--epochs", "0"], "epochs=0 is out of range: it must be at least 1."),
        (["--learning_rate", "nan"], "learning_rate=nan is out of range: it must be between 1e-12 and 100."),
        (["--learning_rate", "fast"], "learning_rate=fast is not a number or auto."),
        (["--skip_unreadable", "yes"], "skip_unreadable=yes is neither true nor false."),
        (["--corpus", "emogater"], "corpus=emogater is not known; did you mean emogator?"),
        (["--optimiser", "sgd"], "train has no option --optimiser; did you mean optimizer?"),
        (["--epoch", "3"], "train has no option --epoch; did you mean epochs?"),
        (["--epochs"], "Argument --epochs: expected one argument; see --help."),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        parse("train", arguments)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_help_explains_each_option_and_its_default(entry_point: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(entry_point, ["--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name in ENTRY_POINTS[entry_point].__dataclass_fields__:
        assert f"--{name} " in text
    assert text.count("(default: ") == len(ENTRY_POINTS[entry_point].__dataclass_fields__)


def test_feature_digest_changes_with_every_setting() -> None:
    digests = {FeatureConfig().digest()}
    for name, value in FeatureConfig().__dict__.items():
        digests.add(FeatureConfig(**{name: value + 1}).digest())
    assert len(digests) == 1 + len(FeatureConfig().__dict__)
    assert FeatureConfig().floor_db == -100.0
