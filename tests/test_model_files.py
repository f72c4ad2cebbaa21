"""Model files: what the header holds and refuses, files of the format before, and models that MLflow logged before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from exvo.config import FeatureConfig
from exvo.enrolment import EnrolmentSettings
from exvo.errors import InputError
from exvo.features.conditions import Ranges
from exvo.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from exvo.networks.network import Network
from exvo.serving.model import signature
from exvo.tasks import Task
from exvo.tracking.models import LOGGED_MODEL

from helpers.requests import TONES, evaluated

TASK = Task("fewshot", ("High", "Loud"), categories=True, objective="mse")
ATTENTION = {"encoder": "cnn14", "enrolment": "cnn10", "fusion": "attention"}
RELATIVE = {"encoder": "cnn10", "enrolment": "shared", "fusion": "relative"}
SIGNAL = {"sample_rate": 16000, "window": 512, "hop": 160, "bands": 64, "fmin": 50.0, "fmax": 8000.0}
SIGNAL |= {"floor": 1e-10, "min_samples": 257, "max_seconds": 60.0}
LABELS = {"name": "fewshot", "targets": ["High", "Loud"], "countries": [], "categories": True, "objective": "mse"}
LABELS |= {"speakers": []}
FORMER_LABELS = dict(LABELS)
LABELS |= {"limits": None}
PLAIN = {"layer_norm": False, "heads": {}}
LATER = {"head": "linear", "typical_clips": 0, "inputs": None, "members": 1}
"""Arguments of a network that older files lack."""


def make(**arguments: Any) -> Network:
    torch.manual_seed(0)
    network = Network(outputs=2, width=0.05, **arguments).eval()
    if network.personalised:
        network.typical.uniform_()
    if network.fusion == "film":  # it starts as the identity
        torch.nn.init.normal_(network.film.scale_shift.weight, std=0.1)
    return network


def header(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        about: dict[str, Any] = json.loads(file.metadata()["exvo"])
        return about


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The same file with a changed header."""
    about, weights = header(path), load_weights(path)
    change(about)
    save_file(weights, path, {"exvo": json.dumps(about)})


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


RANGES = {"seconds": [0.5, 2], "rms_db": [-60, -12.5], "rate": [16_000, 48_000]}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A file of a personalised network."""
    network, path = make(**ATTENTION), tmp_path / "best.safetensors"
    enrolled = EnrolmentSettings("published", 2)
    save_checkpoint(path, network, network.state_dict(), TASK, FeatureConfig(), "zero", {"epoch": 3}, enrolled)
    return path


def test_the_header(whole: Path) -> None:
    assert header(whole) == {
        "format": "exvo-3",
        "revision": 2,
        "network": ATTENTION | {"outputs": 2, "width": 0.05, "dropout": 0.2} | PLAIN | LATER,
        "task": LABELS,
        "features": {"kind": "log-mel", "key": FeatureConfig().digest(), "settings": SIGNAL},
        "enrolment": {"protocol": "published", "shots": 2},
        "fill": "zero",
        "notes": {"epoch": 3},
    }
    found = load_checkpoint(whole)
    assert (found.task, found.features, found.fill, found.notes) == (TASK, FeatureConfig(), "zero", {"epoch": 3})
    assert (found.enrolment, found.protocol) == (EnrolmentSettings("published", 2), "published")
    assert found.temperature is None
    rewrite(whole, lambda about: about.update(temperature=1.75))
    assert load_checkpoint(whole).temperature == 1.75
    assert found.levels == ()
    rewrite(whole, lambda about: about.update(levels=[[0.5, 0, 1], [0.6, 0.25, 0.5]]))
    assert load_checkpoint(whole).levels == ((0.5, 0.0, 1.0), (0.6, 0.25, 0.5))
    assert found.ranges is None
    rewrite(whole, lambda about: about.update(ranges=RANGES))
    assert load_checkpoint(whole).ranges == Ranges((0.5, 2.0), (-60.0, -12.5), (16_000.0, 48_000.0))


def test_a_network_without_enrolment_has_no_protocol(tmp_path: Path) -> None:
    network, path = make(encoder="cnn10"), tmp_path / "best.safetensors"
    save_checkpoint(
        path, network, network.state_dict(), TASK, FeatureConfig(), "zero", {}, EnrolmentSettings("strict", 2)
    )
    assert header(path)["enrolment"] is None
    assert load_checkpoint(path).protocol is None
    rewrite(path, lambda about: about.update(enrolment={"protocol": "strict", "shots": 2}))
    with pytest.raises(InputError, match=r"says enrolment is .*, which can't be"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("part", "changes", "sentence"),
    [
        ("", {"format": "exvo-4"}, r"has the format exvo-4; this version of exvo reads exvo-3 and exvo-2\."),
        ("", {"revision": 1}, "holds a network of revision 1, and this version of exvo computes those of revision 2: "),
        ("", {"revision": 3}, "holds a network of revision 3, .* use the version that trained it, or train again"),
        ("", {"revision": None}, "revision is None"),
        ("", {"revision": True}, "revision is True"),
        ("", {"temperature": None}, "temperature is None"),
        ("", {"temperature": 0}, "temperature is 0"),
        ("", {"temperature": -1.5}, r"temperature is -1\.5"),
        ("", {"temperature": float("nan")}, "temperature is nan"),
        ("", {"temperature": float("inf")}, "temperature is inf"),
        ("", {"temperature": True}, "temperature is True"),
        ("", {"temperature": "1"}, "temperature is '1'"),
        ("", {"levels": None}, "levels is None"),
        ("", {"levels": []}, r"levels is \[\]"),
        ("", {"levels": [[0.5, 0.1]]}, "levels is"),
        ("", {"levels": [[0.5, 0.1, 1.5]]}, "levels is"),
        ("", {"levels": [[0.5, 0.1, True]]}, "levels is"),
        ("", {"levels": [[0.5, 0.1, float("nan")]]}, "levels is"),
        ("", {"levels": [[0.6, 0.1, 1.0], [0.5, 0.2, 0.5]]}, "levels is"),
        ("", {"levels": [[0.001 * n, 0.1, 1.0] for n in range(102)]}, "levels is"),
        ("", {"ranges": None}, "ranges is None"),
        ("", {"ranges": []}, r"ranges is \[\]"),
        ("", {"ranges": RANGES | {"pitch": [100, 200]}}, r"has a header in which ranges\.pitch is unknown"),
        ("", {"ranges": {"seconds": [0.5, 2], "rms_db": [-60, -12]}}, r"has a header in which ranges\.rate is missing"),
        ("", {"ranges": RANGES | {"seconds": [0, 2]}}, r"ranges\.seconds is \[0, 2\]"),
        ("", {"ranges": RANGES | {"seconds": [2, 0.5]}}, r"ranges\.seconds is"),
        ("", {"ranges": RANGES | {"seconds": [0.5]}}, r"ranges\.seconds is"),
        ("", {"ranges": RANGES | {"rms_db": [float("-inf"), 0]}}, r"ranges\.rms_db is"),
        ("", {"ranges": RANGES | {"rms_db": [-60, float("nan")]}}, r"ranges\.rms_db is"),
        ("", {"ranges": RANGES | {"rate": [True, 48_000]}}, r"ranges\.rate is"),
        ("", {"ranges": RANGES | {"rate": "16000"}}, r"ranges\.rate is"),
        ("", {"more": 1}, "has a header in which more is unknown"),
        ("", {"enrolment": "published"}, "enrolment is 'published'"),
        ("", {"fill": "silence"}, "fill is 'silence'"),
        ("enrolment", {"protocol": "loose"}, r"enrolment\.protocol is 'loose'"),
        ("enrolment", {"protocol": ["published"]}, r"enrolment\.protocol is"),
        ("enrolment", {"shots": 0}, r"enrolment\.shots is 0"),
        ("enrolment", {"shots": 17}, r"enrolment\.shots is 17"),
        ("enrolment", {"x": 1}, r"has a header in which enrolment\.x is unknown"),
        ("features", {"kind": "wav2vec"}, r"features\.kind is 'wav2vec'"),
        ("features", {"key": "0" * 12}, r"features\.key is '000000000000'"),
        ("features", {"settings": SIGNAL | {"hop": 161}}, r"features\.key is"),
        ("features", {"settings": []}, r"settings is \[\]"),
        ("features", SIGNAL, r"has a header in which features\.\w+ is unknown"),
        ("task", {"objective": "mae"}, r"task\.objective is 'mae'"),
        ("network", {"fusion": "sum"}, r"network\.fusion is 'sum'"),
        ("network", {"encoder": "resnet50"}, r"network\.encoder is 'resnet50'"),
        ("network", {"head": "tree"}, r"network\.head is 'tree'"),
        ("network", {"typical_clips": 17}, r"network\.typical_clips is 17"),
        ("network", {"typical_clips": 0.5}, r"network\.typical_clips is 0\.5"),
        ("network", {"inputs": [3]}, r"network\.inputs is \[3\]"),
        ("network", {"inputs": [0, 3]}, r"network\.inputs is \[0, 3\]"),
        ("network", {"inputs": [1, 3]}, "describes no network that can be built"),
        ("network", {"encoder": "frozen"}, "describes no network that can be built"),
    ],
)
def test_a_header_that_is_wrong(whole: Path, part: str, changes: dict[str, Any], sentence: str) -> None:
    rewrite(whole, lambda about: (about[part] if part else about).update(changes))
    with pytest.raises(InputError, match=rf"best\.safetensors .*{sentence}"):
        load_checkpoint(whole)


def test_a_file_from_before_our_encoders(whole: Path) -> None:
    rewrite(whole, lambda about: [about["network"].pop(name) for name in LATER] + [about["task"].pop("limits")])
    found = load_checkpoint(whole)
    assert {name: found.network.arguments[name] for name in LATER} == LATER  # type: ignore[literal-required]
    assert found.task == TASK


@pytest.mark.parametrize("missing", ["revision", "network", "task", "features", "enrolment", "fill", "notes"])
def test_a_header_that_lacks_a_part(whole: Path, missing: str) -> None:
    rewrite(whole, lambda about: about.pop(missing))
    with pytest.raises(InputError, match=rf"{missing} is (None, which can't be|missing)\.$"):
        load_checkpoint(whole)


def write_former(path: Path, network: Network) -> None:
    """A file as exvo wrote it before the networks were mended."""
    arguments = {name: value for name, value in network.arguments.items() if name not in LATER}
    about = {"format": "exvo-2", "network": arguments, "task": FORMER_LABELS, "features": SIGNAL, "fill": "repeat"}
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, path, {"exvo": json.dumps(about | {"notes": {"epoch": 1}})})


UNCHANGED = {"cnn14": {"encoder": "cnn14", "heads": {"main_speaker": 3}}, "attention": ATTENTION, "relative": RELATIVE}
UNCHANGED |= {"film": RELATIVE | {"fusion": "film"}}
PAIRS = [[6, 7], [5], []]  # of TONES; 6 is shorter than 7


@pytest.mark.parametrize("kind", UNCHANGED)
def test_a_former_file_of_a_network_that_has_not_changed(kind: str, tmp_path: Path) -> None:
    """It answers as before, with enrolment clips as long as they are."""
    network, path = make(**UNCHANGED[kind]), tmp_path / "best.safetensors"
    write_former(path, network)
    found = load_checkpoint(path)
    assert (found.task, found.features, found.fill, found.notes) == (TASK, FeatureConfig(), "repeat", {"epoch": 1})
    assert (found.enrolment, found.protocol, found.temperature) == (None, None, None)
    clip = 20 * torch.randn(2, 60, 64) - 40
    assert torch.equal(found.network.predict(clip), network.predict(clip))
    assert found.network.arguments == network.arguments


CHANGED = {
    "attention with LayerNorm now adds the normalised embedding": ATTENTION | {"layer_norm": True},
    "conditioning now ends with the fully connected layer twice": ATTENTION | {"fusion": "conditioning"},
    "the convolutions of CNN5 have biases now": {"encoder": "cnn5"},
    "the convolutions of CNN5 have biases": ATTENTION | {"enrolment": "cnn5", "fusion": "conditioning"},
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_former_file_of_a_network_that_has_changed(change: str, tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    write_former(path, make(**CHANGED[change]))
    with pytest.raises(InputError, match=rf"best\.safetensors was trained before .*{change}.* so train it again\.$"):
        load_checkpoint(path)


FORMER_CODE = Path(__file__).parent / "data" / "serving-781e908.py"


def logged(folder: Path, network: Network, code: Path) -> str:
    """The folder of a model as MLflow logs it, with that code and a file of the former format."""
    write_former(folder / "best.safetensors", network)
    mlflow.pyfunc.save_model(
        path=str(folder / "model"),
        python_model=str(code),
        artifacts={"weights": str(folder / "best.safetensors")},
        signature=signature(TASK),
        pip_requirements=[],
    )
    return str(folder / "model")


@pytest.mark.parametrize("code", [FORMER_CODE, LOGGED_MODEL], ids=["former", "present"])
@pytest.mark.parametrize("kind", ["relative", "attention"])
def test_a_former_logged_model_answers_as_before(kind: str, code: Path, tmp_path: Path) -> None:
    """With the code that it carries, in a process that has today's exvo."""
    network = make(**UNCHANGED[kind])
    model = mlflow.pyfunc.load_model(logged(tmp_path, network, code))
    checkpoint = Checkpoint(network, TASK, FeatureConfig(), "repeat", {})
    expected = evaluated(checkpoint, TONES, [*PAIRS, *[[]] * 5])[:3]
    rows = [{"audio": TONES[n], "enrolment": [TONES[m] for m in own] or None} for n, own in enumerate(PAIRS)]
    np.testing.assert_allclose(model.predict(pd.DataFrame(rows))[["High", "Loud"]], expected, atol=1e-6)
    enrolled = model.predict(pd.DataFrame({"enrolment": [[TONES[6], TONES[7]]]}), params={"mode": "enrol"})
    again = pd.DataFrame({"audio": [TONES[0]], "profile": [enrolled["profile"][0]]})
    np.testing.assert_allclose(model.predict(again)[["High", "Loud"]], expected[:1], atol=1e-6)
    with pytest.raises(mlflow.exceptions.MlflowException, match="row 0: audio is missing"):
        model.predict(pd.DataFrame({"enrolment": [[TONES[0]]]}))


@pytest.mark.parametrize("code", [FORMER_CODE, LOGGED_MODEL], ids=["former", "present"])
def test_a_former_logged_model_of_a_network_that_has_changed(code: Path, tmp_path: Path) -> None:
    model = logged(tmp_path, make(**ATTENTION, layer_norm=True), code)
    with pytest.raises(InputError, match=r"attention with LayerNorm now adds .* so train it again\.$"):
        mlflow.pyfunc.load_model(model)


def test_the_logged_code_only_names_the_class() -> None:
    lines = LOGGED_MODEL.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith('"""')] == [
        "import mlflow",
        "from exvo.serving import VocalBurstModel",
        "from exvo.tracking.encoders import load_kept",
        "mlflow.models.set_model(VocalBurstModel(load_kept))",
    ]
